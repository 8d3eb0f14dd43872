# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""What steps and hooks cost, while somebody asks: intervals on the monotonic clock, in memory that does not grow with them.

The dispatcher tells when a step, its native run and the calls of its hooks begin and end. What a step is made of is kept
with the step, and added to its session's sums when it ends, so that the sums are of whole steps: rows made of them add up.
"""

import threading
import weakref

from fasthooks.step import _clock

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from libc.string cimport memset

from fasthooks.step._clock cimport clock

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept
    unsigned long PyThread_get_thread_native_id() noexcept

cdef extern from *:
    int __builtin_clzll(unsigned long long) noexcept

# What a session, and what a profile, keeps apart; the rest is counted together.
cdef Py_ssize_t _MAX_HOOKS = 512, _MAX_PLANS = 64, _MAX_SESSIONS = 64
# Of the calls of a hook that is looked at for slowness, the slowest, one in so many, do not count: what a hook does now and then
# is not slowness.
cdef int _RARE = 50
cdef uint64_t _serials = 0
cdef int32_t _STEP = 0, _NATIVE = 1, _LOOP = 2, _OTHERS = 3


cdef inline int _bucket(int64_t ns) noexcept:
    cdef int power
    if ns < 4:
        return <int>ns if ns > 0 else 0
    power = 63 - __builtin_clzll(<unsigned long long>ns)
    return 4 * power + <int>((ns >> (power - 2)) & 3)


cdef inline double _low(int bucket) noexcept:
    return bucket if bucket < 8 else <double>((<uint64_t>(4 + (bucket & 3))) << ((bucket >> 2) - 2))


cdef inline double _width(int bucket) noexcept:
    return 1 if bucket < 8 else <double>(<uint64_t>1 << ((bucket >> 2) - 2))


cdef class Durations(Counted):
    """Intervals of one kind: how many, how long together, the longest, and how they are distributed."""

    def __cinit__(self, *_):
        self.longest_step = -1
        memset(self.buckets, 0, sizeof(self.buckets))

    cpdef bint add(self, int64_t ns) noexcept:
        """Adds one of so many ns; returns whether it is the longest so far, whose step is wanted then."""
        return _add(self, ns)

    def median(self):
        """Returns the median in ns, within 13 %; 0.0 of none."""
        cdef double rank = self.count / 2.0, seen = 0
        cdef int i
        for i in range(N_BUCKETS):
            if self.buckets[i] and seen + self.buckets[i] >= rank:
                return _low(i) + _width(i) * (rank - seen) / self.buckets[i]
            seen += self.buckets[i]
        return 0.0

    def usual_mean(self):
        """Returns the mean in ns of all but the longest, one in 50; 0.0 of none."""
        cdef double total = 0
        cdef uint64_t wanted = self.count - self.count // _RARE, seen = 0, n
        cdef int i
        for i in range(N_BUCKETS):
            n = min(self.buckets[i], wanted - seen)
            total += n * (_low(i) + _width(i) / 2)
            seen += n
        return total / wanted if wanted else 0.0

    def merge(self, Durations other not None):
        """Adds those of another."""
        cdef int i
        self.count += other.count
        self.total += other.total
        for i in range(N_BUCKETS):
            self.buckets[i] += other.buckets[i]
        if other.longest > self.longest:
            self.longest = other.longest
            self.longest_step = other.longest_step


cdef inline bint _is_time_to_look(uint64_t calls) noexcept:
    # After 32 calls, 64, 128 and so on, and from then on after each 1,024.
    return calls >= 32 and (calls & (calls - 1) == 0 or calls & 1023 == 0)


cdef inline bint _add(Durations durations, int64_t ns) noexcept:
    durations.count += 1
    durations.total += ns
    durations.buckets[_bucket(ns)] += 1
    if ns <= durations.longest:
        return False
    durations.longest = ns
    durations.longest_step = -1
    return True


cdef class Calls(Durations):
    """The calls of one method of a hook."""

    def __cinit__(self, str method not None, int32_t label):
        self.method = method
        self.label = label


cdef class HookTimes(Counted):
    """What is known of one hook of a session.

    Args:
      reference: A function that returns the hook, or None once it is gone.
      name: What it is called in tables.
      place: Where it is in the hooks list; -1: nowhere.
    """

    def __cinit__(self, reference, str name not None, Py_ssize_t place):
        self.reference = reference
        self.name = name
        self.place = place
        self.once = {}

    cdef Calls calls(self, bint after):
        return self.after if after else self.before

    cdef Durations durations(self, str method):
        if method not in self.once:
            self.once[method] = Durations()
        return <Durations>self.once[method]


cdef class PlanTimes(Counted):
    """The native runs of one plan."""

    def __cinit__(self, uint64_t number, caller, Py_ssize_t step_index, tuple acting not None):
        self.number = number
        self.caller = caller
        self.step_index = step_index
        self.acting = acting
        self.native = Durations()


cdef class SessionTimes(Counted):
    """What is known of one raw session."""

    def __cinit__(self, uint64_t serial, int number):
        self.serial = serial
        self.number = number
        self.turn = Durations()
        self.step = Durations()
        self.loop = Durations()
        self.stock = Durations()
        self.hooks = []
        self.by_id = {}
        self.other_hooks = HookTimes(None, "others", -1)
        self.plans = {}
        self.other_plans = PlanTimes(0, None, -1, ())

    cdef int meet(self, object hooks) except -1:
        cdef Py_ssize_t place
        if type(hooks) is not list and type(hooks) is not tuple:
            return 0
        self.n_hooks = len(hooks)
        for place, hook in enumerate(list(hooks)):
            self.of_hook(hook, place)
        return 0

    cdef HookTimes of_hook(self, object hook, Py_ssize_t place):
        found = self.by_id.get(<size_t><PyObject*>hook)
        if found is not None and (<HookTimes>found).reference() is hook:
            return <HookTimes>found
        return self.new_hook(hook, place)

    cdef int take_over(self, SessionTimes other) except -1:
        # What is known of another session's hooks before its first step.
        cdef HookTimes times
        for times in other.hooks:
            hook = times.reference()
            for method, durations in times.once.items():
                (self.other_hooks if hook is None else self.of_hook(hook, times.place)).durations(method).merge(durations)
        return 0

    cdef HookTimes new_hook(self, object hook, Py_ssize_t place):
        cdef HookTimes times
        if len(self.hooks) >= _MAX_HOOKS:
            return self.other_hooks
        try:
            reference = weakref.ref(hook)
        except TypeError:
            reference = _Itself(hook)
        times = HookTimes(reference, _name(hook, place), place)
        self.by_id[<size_t><PyObject*>hook] = times
        self.hooks.append(times)
        return times

    cdef PlanTimes plan(self, uint64_t number):
        cdef PlanTimes last = self.last_plan
        if self.several:
            # Each has numbers of its own.
            return self.other_plans
        if last is not None and last.number == number:
            return last
        last = self.plans.get(number)
        if last is None and len(self.plans) >= _MAX_PLANS:
            return self.other_plans
        self.last_plan = last
        return last

    cdef PlanTimes new_plan(self, uint64_t number, object caller, Py_ssize_t step_index, tuple acting):
        times = self.plans[number] = PlanTimes(number, caller, step_index, acting)
        return times


cdef class _Itself:
    # In the place of a weak reference.
    cdef object hook

    def __cinit__(self, hook):
        self.hook = hook

    def __call__(self):
        return self.hook


def _name(hook, place):
    # Not through the hook's own `__getattr__`, a property or a metaclass, which may do anything.
    cls = type(hook)
    try:
        own = object.__getattribute__(hook, "__dict__")
    except Exception:
        own = None
    dicts = [own] if type(own) is dict else []
    dicts += [_dict_of(base) for base in _mro_of(cls)]
    name = next((names["name"] for names in dicts if "name" in names), None)
    named = f" {_short(name)!r}" if type(name) is str else ""
    return f"{repr(_short(_name_of(cls)))[1:-1]}{named} (hooks[{place}])"


# What `type` itself says of a class.
_name_of, _mro_of, _dict_of = [vars(type)[name].__get__ for name in ("__name__", "__mro__", "__dict__")]


def _short(text):
    return text if len(text) <= 60 else f"{text[:57]}..."


# None is ever part of a cycle.
@cython.no_gc
cdef class StepTimes:
    def __dealloc__(self):
        PyMem_Free(self.calls)

    cdef int begin_call(self, HookTimes hook, bint after) except -1:
        cdef Call* call
        self.calling = True
        if self.silent or self.left_out:
            return 0
        if self.n_calls == self.capacity:
            call = <Call*>PyMem_Realloc(self.calls, (2 * self.capacity + 4) * sizeof(Call))
            if call is NULL:
                raise MemoryError
            self.calls = call
            self.capacity = 2 * self.capacity + 4
        call = &self.calls[self.n_calls]
        call.hook = <void*>hook
        call.after = after
        call.ended = 0
        self.n_calls += 1
        call.began = clock()
        return 0

    cdef int end_call(self) except -1:
        self.calling = False
        if self.n_calls:
            self.calls[self.n_calls - 1].ended = clock()
        return 0

    cdef int native(self, int64_t began, PlanTimes plan, list values) except -1:
        self.native_ended = clock()
        self.native_began = began
        self.plan = plan
        if plan.step_index >= 0:
            self.global_step = values[plan.step_index]
        return 0

    cdef int renew(self) except -1:
        self.outer = self.plan = self.global_step = None
        self.completed = self.stock = self.calling = False
        self.native_began = self.native_ended = self.own_runs = 0
        self.n_calls = 0
        return 0

    cdef int64_t step_number(self) noexcept:
        try:
            return -1 if self.global_step is None else int(self.global_step)
        except Exception:   # a program may feed what it likes in its place
            return -1


cdef class Collector(Counted):
    """Times all steps of the process while it is `install`ed.

    Args:
      skip_steps: So many steps of each session are left out.
      trace_steps: So many steps are kept one by one, as far as there is room: 16 events a step.
      share: A hook is slow whose calls take more than this share of a step ...
      min_ns: ... and so many ns.
      warn: Is called with the HookTimes and Calls of a hook that is slow, and the Durations of its session's steps; None: nobody
        wants to know.
    """

    def __cinit__(self, uint64_t skip_steps, uint64_t trace_steps, double share, double min_ns, warn):
        global _serials
        _serials += 1
        self.serial = _serials
        self.skip_steps = skip_steps
        self.trace_steps = trace_steps
        self.share = share
        self.min_ns = min_ns
        self.warn = warn
        self.sessions = []
        self.expected = {}
        self.labels = ["step", "native run", "your loop", "others"]
        self.threads = {}
        if trace_steps:
            self.event_capacity = <Py_ssize_t>(16 * trace_steps)
            self.events = <Event*>PyMem_Malloc(self.event_capacity * sizeof(Event))
            if self.events is NULL:
                raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.events)

    cdef SessionTimes new_session(self, object raw, object hooks):
        cdef SessionTimes known = self.times_of(raw), session
        if known is not None and known.number:
            known = None
        if len(self.sessions) < _MAX_SESSIONS:
            session = SessionTimes(self.serial, 0) if known is None else known
            self.sessions.append(session)
            session.number = len(self.sessions)
        else:
            # Those past the last that is kept apart are counted together with it.
            session = <SessionTimes>self.sessions[-1]
            session.several = True
            if known is not None:
                session.take_over(known)
        session.meet(hooks)
        try:
            session.graph = None if session.several else weakref.ref(raw.graph)
        except Exception:   # the raw session may be anything
            session.graph = None
        self.remember(raw, session)
        return session

    cdef int remember(self, object raw, SessionTimes times) except -1:
        expected, key = self.expected, id(raw)
        try:
            reference = weakref.ref(raw, lambda _: expected.pop(key, None))
        except TypeError:  # None, or a class without weak references
            return 0
        expected[key] = reference, times
        return 0

    cdef SessionTimes times_of(self, object raw):
        reference, times = self.expected.get(id(raw), (None, None))
        return <SessionTimes>times if reference is not None and reference() is raw else None

    def expect(self, raw):
        """Takes note of a raw session that was just made: what is told of it waits for its first step."""
        self.remember(raw, SessionTimes(self.serial, 0))

    def note_once(self, raw, hook, Py_ssize_t place, str method not None, int64_t ns):
        """Takes note of a call that a hook has once in a raw session. Nothing is told of sessions without a step.

        Args:
          raw: The raw session.
          hook: The hook.
          place: Where it is in the hooks list.
          method: What was called.
          ns: How long it took.
        """
        cdef SessionTimes session = self.times_of(raw)
        cdef StepTimes outer = self.running() if self.newest is not None else None
        # A hook that closes its session within a step is in the midst of a call that is timed.
        while outer is not None and outer.session is not session:
            outer = outer.outer
        if session is not None and outer is None:
            session.of_hook(hook, place).durations(method).add(ns)

    cdef StepTimes running(self):
        cdef StepTimes times = self.newest
        cdef uint64_t thread = PyThread_get_thread_ident()
        while times is not None and times.thread != thread:
            times = times.below
        return times

    cdef StepTimes begin(self, SessionTimes session, uint64_t steps, bint alone):
        cdef StepTimes times = StepTimes.__new__(StepTimes) if self.spare is None else self.spare
        cdef StepTimes outer
        self.spare = None
        times.session = session
        times.thread = PyThread_get_thread_ident()
        times.outer = None if self.newest is None else self.running()
        outer = times.outer
        times.silent = outer is not None and alone
        while outer is not None and not times.silent:
            times.silent = outer.session is session
            outer = outer.outer
        times.left_out = steps < self.skip_steps
        times.below = self.newest
        self.newest = times
        times.loop = -1
        times.began = clock()
        if session.begun and session.begun == self.begun and session.thread == times.thread:
            times.loop = times.began - session.returned
        self.begun += 1
        return times

    cdef int end(self, StepTimes times) except -1:
        cdef int64_t now = clock()
        cdef StepTimes above = self.newest
        if above is times:
            self.newest = times.below
        else:
            while above.below is not times:
                above = above.below
            above.below = times.below
        times.below = None
        self.account(times, now)
        times.renew()
        self.spare = times
        return 0

    cdef int account(self, StepTimes times, int64_t now) except -1:
        cdef int64_t elapsed = now - times.began
        cdef SessionTimes session = times.session
        if times.outer is not None and times.outer.calling:
            times.outer.own_runs += elapsed
        if times.silent:
            return 0
        session.begun = 0
        if not times.completed:
            session.failed += 1
            return self.note_calls(times, now)
        if times.left_out:
            session.left_out += 1
            return 0
        if _add(session.step, elapsed):
            session.step.longest_step = times.step_number()
        if times.loop >= 0 and _add(session.loop, times.loop):
            session.loop.longest_step = times.step_number()
        if _add(session.turn, elapsed + max(times.loop, 0)):
            session.turn.longest_step = times.step_number()
        if times.stock:
            _add(session.stock, elapsed)
        elif times.plan is not None and _add(times.plan.native, times.native_ended - times.native_began):
            times.plan.native.longest_step = times.step_number()
        session.own_runs += times.own_runs
        if self.newest is None:
            session.begun = self.begun
            session.thread = times.thread
            session.returned = now
        if times.n_calls:
            self.note_calls(times, now)
        if self.traced < self.trace_steps:
            self.trace(times, now)
        return 0

    cdef int note_calls(self, StepTimes times, int64_t now) except -1:
        cdef Py_ssize_t i
        cdef Call* call
        cdef HookTimes hook
        cdef Calls calls
        cdef int64_t ns
        for i in range(times.n_calls):
            call = &times.calls[i]
            hook = <HookTimes>call.hook
            calls = hook.calls(call.after)
            if calls is None:
                calls = Calls("after_run" if call.after else "before_run", _OTHERS)
                if hook is not times.session.other_hooks:
                    self.labels.append(f"{hook.name}.{calls.method}")
                    calls.label = <int32_t>(len(self.labels) - 1)
                if call.after:
                    hook.after = calls
                else:
                    hook.before = calls
            ns = (call.ended or now) - call.began
            if _add(calls, ns):
                calls.longest_step = times.step_number()
            if times.completed:
                calls.counted += ns
                if self.warn is not None and not hook.settled and _is_time_to_look(calls.count):
                    self.look(times, hook, calls)
        return 0

    cdef int look(self, StepTimes times, HookTimes hook, Calls calls) except -1:
        cdef Durations steps = times.session.step
        cdef double usual = calls.usual_mean()
        if (hook is not times.session.other_hooks and 2 * calls.count > steps.count and usual > self.min_ns
                and usual > self.share * <double>steps.usual_mean()):
            hook.settled = True
            if self.has_warned(times.session, hook.reference()):
                return 0
            try:
                self.warn(hook, calls, steps)
            except Exception:   # of a logging filter, for example; the step has a result
                pass
        return 0

    cdef bint has_warned(self, SessionTimes session, object hook) except -1:
        cdef SessionTimes other
        cdef HookTimes times
        cdef object graph = None if session.graph is None else session.graph()
        for other in self.sessions:
            if graph is None or other is session or other.graph is None or other.graph() is not graph:
                continue
            for times in other.hooks:
                if times.settled and times.reference() is hook:
                    return True
        return False

    cdef int trace(self, StepTimes times, int64_t ended) except -1:
        cdef Py_ssize_t i
        cdef Call* call
        cdef int64_t step = times.step_number()
        cdef uint64_t thread = PyThread_get_thread_native_id()
        cdef int32_t plan = 0 if times.plan is None else <int32_t>times.plan.number
        # A step is kept as a whole or not at all.
        if self.n_events + 3 + times.n_calls > self.event_capacity:
            self.traced = self.trace_steps
            return 0
        self.traced += 1
        if thread not in self.threads:
            self.threads[thread] = threading.current_thread().name
        if times.loop >= 0:
            self.put(times.began - times.loop, times.began, step, thread, _LOOP, 0)
        self.put(times.began, ended, step, thread, _STEP, plan)
        if times.native_ended:
            self.put(times.native_began, times.native_ended, step, thread, _NATIVE, plan)
        for i in range(times.n_calls):
            call = &times.calls[i]
            self.put(call.began, call.ended, step, thread, (<HookTimes>call.hook).calls(call.after).label, 0)
        return 0

    cdef int put(self, int64_t began, int64_t ended, int64_t step, uint64_t thread, int32_t label, int32_t plan) except -1:
        cdef Event* event = &self.events[self.n_events]
        self.n_events += 1
        event.began, event.ended, event.step = began, ended, step
        event.thread, event.label, event.plan = thread, label, plan
        return 0

    cdef int note_own_run(self, int64_t ns) except -1:
        cdef StepTimes times = self.running() if self.newest is not None else None
        if times is not None and times.calling:
            times.own_runs += ns
        return 0

    def trace_events(self):
        """Yields what was traced, in the order in which steps ended: label, thread id, begin and duration in ns, global step or
        -1, number of the plan or 0."""
        cdef Py_ssize_t i
        for i in range(self.n_events):
            yield (self.labels[self.events[i].label], self.events[i].thread, self.events[i].began,
                   self.events[i].ended - self.events[i].began, self.events[i].step, self.events[i].plan)


def install(Collector collector):
    """Makes this collector time all steps from now on; None: nothing is timed. Returns the one that did."""
    global current
    if collector is not None:
        _clock.use_counter()
    before, current = current, collector
    return before


def note_own_run(int64_t ns):
    """Takes note of a run of the raw session: of the hook's that is being called on this thread, if one is."""
    if current is not None:
        current.note_own_run(ns)
