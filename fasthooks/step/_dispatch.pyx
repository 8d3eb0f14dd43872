# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""One step: triggers, merged requests, plan, actions, stop flag.

The way of a step is drawn in `session.py`. Nothing of one call is kept in a field of the dispatcher: everything a step
decides lives in its own C frame, or in the `Step` that is made once a hook is called, so that any number of threads, hooks
that run the session themselves, and a `close` from elsewhere behave as with TensorFlow. What changes in place is what a
slot knows of its hook's class and quiet request, which any thread finds out alike.
"""

from tensorflow.python.training import monitored_session

from fasthooks.step import declining
from fasthooks.triggers._guard import original_of

from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t

from fasthooks.step._clock cimport clock
from fasthooks.step._context cimport RunContextBase, RunProtos, new_context, new_values
from fasthooks.step._feed cimport plain_dict
from fasthooks.step._plan cimport Plan
from fasthooks.step._prepared cimport PreparedRuns, PreparedStep, to_front
from fasthooks.step._profile cimport Collector, HookTimes, SessionTimes, StepTimes, current
from fasthooks.step._slot cimport Slot
from fasthooks.step._structure cimport Template, built, held
from fasthooks.triggers._timer cimport ACT, QUIET, READ, Clock

cdef object _HookedSession = monitored_session._HookedSession


cdef class HookDispatcher(Counted):
    """Runs steps of one raw session with one list of hooks.

    Args:
      runs: The PreparedRuns of the raw session.
      hooks: The caller's list. Hooks that are appended later take part.
      subset: Whether `hooks` are not all hooks of the session.
    """

    def __cinit__(self, PreparedRuns runs not None, hooks, bint subset=False):
        self.runs = runs
        self.hooks = hooks
        self.subset = subset
        self.recent = []

    cdef tuple current_slots(self):
        # A Slot for each hook now in the list; None: a list that only TensorFlow's own loop treats rightly.
        cdef tuple slots = self.slots
        cdef object hooks = self.hooks
        cdef Py_ssize_t i, n
        if slots is not None and type(hooks) is list and len(<list>hooks) == len(slots):
            n = len(slots)
            for i in range(n):
                if (<Slot>PyTuple_GET_ITEM(slots, i)).hook is not <object>PyList_GET_ITEM(hooks, i):
                    break
            else:
                return slots if self.irregular is None else None
        elif slots is not None and type(hooks) is tuple:
            return slots if self.irregular is None else None
        if type(hooks) is not list and type(hooks) is not tuple:
            return None
        known = {id(slot.hook): slot for slot in slots or ()}
        slots = tuple([known.get(id(hook)) or Slot(hook) for hook in hooks])
        # TensorFlow keeps requests in a dict keyed by the hook: equal or repeated hooks share one.
        self.irregular = None if len({id(hook) for hook in hooks}) == len(hooks) else declining.REPEATED_HOOK
        self.reads_metadata = False
        for slot in slots:
            cls = type(slot.hook)
            if cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
                self.irregular = declining.EQUAL_HOOKS
            # A hook in plain Python may read the metadata of the run.
            if self.runs.needs_metadata and (<Slot>slot).trigger is None and (<Slot>slot).has_after:
                self.reads_metadata = True
        self.slots = slots
        return slots if self.irregular is None else None

    cdef str obstacle(self, tuple slots, object fetches, RunProtos protos):
        # Why a step cannot even be looked at; None: nothing speaks against it.
        reason = self.runs.obstacle(fetches, protos)
        if reason is None and type(self.hooks) is not list and type(self.hooks) is not tuple:
            reason = declining.HOOKS_LIST
        if reason is None:
            reason = self.irregular
        return declining.HOOKS_CHANGED if reason is None and slots is None else reason

    cdef object step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run):
        if current is None:
            return self.take_step(session, fetches, feed_dict, protos, stock_run, None)
        return self.timed_step(session, fetches, feed_dict, protos, stock_run, None)

    cdef object declined_step(self, object session, object fetches, object feed_dict, RunProtos protos, str reason):
        if current is not None:
            return self.timed_step(session, fetches, feed_dict, protos, None, reason)
        self.runs.cache.count_run()
        self.runs.cache.decline(reason)
        return self.stock_step(session, fetches, feed_dict, protos, None, None)

    cdef object timed_step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run,
                           str reason):
        # `profile` may end before the step does.
        cdef Collector collector = current
        cdef StepTimes times = self.runs.begin(collector, session)
        try:
            if not self.subset and type(self.hooks) is list and len(<list>self.hooks) != times.session.n_hooks:
                times.session.meet(self.hooks)
            if reason is None:
                result = self.take_step(session, fetches, feed_dict, protos, stock_run, times)
            else:
                self.runs.cache.count_run()
                self.runs.cache.decline(reason)
                result = self.stock_step(session, fetches, feed_dict, protos, stock_run, times)
            times.completed = True
            return result
        finally:
            collector.end(times)

    cdef object take_step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run,
                          StepTimes times):
        cdef PreparedRuns runs = self.runs
        cdef tuple slots = self.current_slots() if runs.plannable() else None
        cdef Py_ssize_t i, n, index
        cdef Clock wall
        cdef PreparedStep prepared
        cdef Step step
        cdef list values, mappings
        cdef dict feeds
        cdef PyObject* value
        cdef str reason
        runs.cache.count_run()
        if slots is None or fetches is None or protos is not None:
            reason = self.obstacle(slots, fetches, protos)
            if reason is not None:
                runs.cache.decline(reason)
                return self.stock_step(session, fetches, feed_dict, protos, stock_run, times)
        n = len(slots)
        wall.known = False
        if protos is not None or self.reads_metadata or runs.on_first_step is not None:
            step = Step(self, session, fetches, feed_dict, times)
            step.protos = protos
            step.ask(slots, 0, False)
            return step.run()
        for i in range(n):
            if (<Slot>PyTuple_GET_ITEM(slots, i)).before(&wall) != QUIET:
                step = Step(self, session, fetches, feed_dict, times)
                step.clock = wall
                step.ask(slots, i, True)
                return step.run()
        fed = feed_dict if feed_dict is None or type(feed_dict) is dict else plain_dict(feed_dict)
        prepared = self.prepare_quiet(slots, fetches, fed)
        feeds = runs.feeds_for(prepared, feed_dict, fed)
        if feeds is None:
            step = Step(self, session, fetches, feed_dict, times)
            for i in range(n):
                step.add(<Slot>slots[i], False, (<Slot>slots[i]).request)
            return step.run_stock(runs.raw)
        assert len(prepared.tensors) == n
        part = <Template>prepared.plan.parts[0]
        mappings = held(part, fetches)
        runs.cache.count_planned()
        if times is None:
            values = prepared.plan.call(feeds, runs.cache.steps)
        else:
            values = runs.timed_values(times, prepared.plan, feeds, None)
        # Before any hook acts: a class of somebody's own in the structure may refuse its results.
        result = built(part, values, mappings)
        wall.known = False
        i = 0
        # A kernel in Python, or another thread, may have changed the list or a hook meanwhile.
        if self.current_slots() is slots:
            while i < n:
                index = prepared.indices[i]
                value = NULL if index < 0 else PyList_GET_ITEM(values, index)
                if (<Slot>PyTuple_GET_ITEM(slots, i)).after(value, &wall) != QUIET:
                    break
                i += 1
            else:
                return result
        step = Step(self, session, fetches, feed_dict, times)
        step.slots = list(slots)
        step.asked = [False] * n
        step.prepared = prepared
        step.values = values
        step.clock = wall
        step.tell(i)
        return result

    cdef object stock_step(self, object session, object fetches, object feed_dict, RunProtos protos, object stock_run,
                           StepTimes times):
        # TensorFlow's own loop over the hooks.
        if times is not None:
            times.stock = True
        run = original_of(_HookedSession.run) if stock_run is None else stock_run
        if protos is None:
            protos = RunProtos.__new__(RunProtos)
        part = session.with_hooks(self.hooks) if self.subset else session
        result = run(part, fetches, feed_dict, protos.run_options, protos.run_metadata)
        if self.subset:
            session._should_stop = session._should_stop or part._should_stop
        self.runs.tell_first_step(None)
        return result

    cdef PreparedStep prepare_quiet(self, tuple slots, object fetches, object feed_dict):
        cdef PreparedStep prepared
        cdef Py_ssize_t i, n = len(slots)
        cdef list recent = self.recent
        for i in range(len(recent)):
            prepared = <PreparedStep>recent[i]
            if (_still_ask(prepared, slots) and (<Template>prepared.plan.parts[0]).matches(fetches)
                    and prepared.plan.takes(feed_dict)):
                if i > 0:
                    to_front(recent, prepared)
                return prepared
        requests = [fetches]
        tensors = []
        for i in range(n):
            requests.append((<Slot>slots[i]).request)
            tensors.append((<Slot>slots[i]).tensor)
        prepared = self.runs.find(recent, requests, feed_dict)
        if prepared is not None:
            prepared.slots = slots
            prepared.tensors = tensors
        return prepared


cdef bint _still_ask(PreparedStep prepared, tuple slots) except -1:
    # Whether these hooks still ask for what they asked for when the step was prepared.
    cdef Py_ssize_t i
    if slots is not prepared.slots:
        return False
    for i in range(len(slots)):
        if (<Slot>PyTuple_GET_ITEM(slots, i)).tensor is not <object>PyList_GET_ITEM(prepared.tensors, i):
            return False
    return True


cdef class Step:
    """A step on which a hook is called, or that `Session.run` runs. It lives as long as the call.

    Args:
      dispatcher: Whose step it is.
      session: The hooked session.
      fetches: The caller's.
      feed_dict: Likewise.
      times: Where it is noted what it costs; None: nowhere.
    """

    def __cinit__(self, HookDispatcher dispatcher not None, session, fetches, feed_dict, StepTimes times):
        self.dispatcher = dispatcher
        self.session = session
        self.context = new_context(fetches, feed_dict, dispatcher.runs.raw)
        self.feed_dict = feed_dict
        self.times = times
        self.slots = []
        self.asked = []
        self.requests = [fetches]

    cdef int ask(self, tuple known, Py_ssize_t first, bint acts) except -1:
        # Collects what all hooks ask for. The first of `known`, the slots of the hooks when the step began, are quiet up to
        # number `first`; `acts`: and that one is not.
        cdef Py_ssize_t i = first, place
        cdef bint moved = False, asked
        cdef dict feeds = {}
        cdef object hooks = self.dispatcher.hooks
        cdef Slot slot
        for slot in known[:first]:
            self.add(slot, False, slot.request)
        # The list is live: a hook may put others into it while it is called.
        while i < len(hooks):
            hook = hooks[i]
            place = -1
            moved = moved or i >= len(known) or (<Slot>known[i]).hook is not hook
            if not moved:
                slot = <Slot>known[i]
            else:
                # One that stands behind another now is asked twice, as by TensorFlow.
                place = _place(self.slots, i, hook)
                slot = self.slots[place] if place >= 0 else _slot_of(known, i, hook)
            asked = (acts and i == first) or slot.before(&self.clock) != QUIET
            request = self.ask_hook(slot, i, feeds) if asked else slot.request
            i += 1
            if place < 0:
                self.add(slot, asked, request)
                continue
            if asked:
                self.asked[place] = True
            if request is not None:
                self.requests[place + 1] = request
        if feeds:
            if self.feed_dict:
                self.session._raise_if_feeds_intersects(self.feed_dict, feeds,
                                                        "Same tensor is fed by a SessionRunHook and user.")
                feeds.update(self.feed_dict)
            self.feed_dict = feeds
        return 0

    cdef object ask_hook(self, Slot slot, Py_ssize_t listed, dict feeds):
        # Calls `before_run`, merges what is fed and the options; returns the fetches.
        if self.times is not None:
            self.times.begin_call(self.times_of(slot, listed), False)
        request = slot.hook.before_run(self.context)
        self.clock.known = False
        if self.times is not None:
            self.times.end_call()
        if request is None:
            return None
        fetches = request.fetches
        feed = request.feed_dict
        if feed:
            self.session._raise_if_feeds_intersects(feeds, feed, "Same tensor is fed by two hooks.")
            feeds.update(feed)
        options = request.options
        if options:
            if self.protos is None:
                self.protos = RunProtos.__new__(RunProtos)
            self.session._merge_run_options(self.protos.options(), options)
            self.protos.wanted = True
        return fetches

    cdef int add(self, Slot slot, bint asked, object request) except -1:
        self.slots.append(slot)
        self.asked.append(asked)
        self.requests.append(request)
        return 0

    cdef object run(self):
        # The run, and what follows it; returns the caller's result.
        cdef PreparedRuns runs = self.dispatcher.runs
        cdef PreparedStep prepared
        cdef dict feeds = None
        # A hook may have closed the session, or put another in its place.
        raw = self.session._sess
        if raw is not runs.raw or not runs.plannable():
            runs.cache.decline(declining.SESSION_REPLACED if raw is not runs.raw else declining.SESSION_PATCHED)
        elif (self.protos is not None and self.protos.wanted
                and self.protos.options().debug_options.debug_tensor_watch_opts):
            runs.cache.decline(declining.DEBUGGER)
        else:
            fed = self.feed_dict
            if fed is not None and type(fed) is not dict:
                fed = plain_dict(fed)
            prepared = runs.prepare(self.requests, self.asked, fed)
            feeds = runs.feeds_for(prepared, self.feed_dict, fed)
        if feeds is None:
            return self.run_stock(raw)
        parts = prepared.plan.parts
        mappings = [None if part is None else held(part, request) for part, request in zip(parts, self.requests)]
        runs.cache.count_planned()
        if self.protos is None and runs.needs_metadata:
            self.protos = RunProtos.__new__(RunProtos)
        if self.times is None:
            self.values = runs.values(prepared.plan, feeds, self.protos)
        else:
            self.introduce(prepared.plan)
            self.values = runs.timed_values(self.times, prepared.plan, feeds, self.protos)
        self.results = [None if part is None else built(part, self.values, mapping)
                        for part, mapping in zip(parts, mappings)]
        self.prepared = prepared
        if runs.on_first_step is not None:
            runs.tell_first_step(prepared.plan.global_step(self.values))
        self.clock.known = False
        self.tell(0)
        return self.results[0]

    cdef object run_stock(self, object raw):
        # The same by `Session.run` itself.
        cdef Py_ssize_t i
        cdef int64_t began
        cdef dict wanted = {"caller": self.requests[0]}
        for i in range(len(self.slots)):
            if self.requests[i + 1] is not None:
                wanted[(<Slot>self.slots[i]).hook] = self.requests[i + 1]
        if self.protos is None:
            self.protos = RunProtos.__new__(RunProtos)
        began = clock() if self.times is not None else 0
        self.outputs = raw.run(fetches=wanted, feed_dict=self.feed_dict, options=self.protos.options(),
                               run_metadata=self.protos.metadata())
        if self.times is not None:
            self.times.native(began, self.times.session.other_plans, None)
        self.dispatcher.runs.tell_first_step(None)
        self.clock.known = False
        self.tell(0)
        return self.outputs["caller"]

    cdef int tell(self, Py_ssize_t first) except -1:
        # Calls `after_run` where there is something to do, from hook number `first` of the live list on.
        cdef object hooks = self.dispatcher.hooks if self.dispatcher.subset else self.session._hooks
        cdef Py_ssize_t i = first, place
        cdef int decision
        assert len(self.slots) == len(self.asked)
        cdef Slot slot
        while i < len(hooks):
            hook = hooks[i]
            place = _place(self.slots, i, hook)
            i += 1
            if place < 0:
                # Put into the list after the run was prepared: nothing was fetched for it.
                self.act(Slot(hook), i - 1, None)
                continue
            slot = <Slot>self.slots[place]
            decision = self.decision(place, slot)
            if decision == READ:
                self.act_on_read(place, i - 1, slot)
            elif decision != QUIET:
                self.act(slot, i - 1, self.result_for(place, slot))
        if self.context._stop_requested:
            self.session._should_stop = self.session._should_stop or self.context.stop_requested
        return 0

    cdef int decision(self, Py_ssize_t place, Slot slot) except -1:
        cdef PyObject* value = NULL
        cdef Py_ssize_t index
        if self.asked[place] and slot.trigger is not None:
            return ACT
        if self.prepared is not None:
            index = self.prepared.indices[place]
            if index >= 0:
                value = PyList_GET_ITEM(self.values, index)
        elif slot.trigger is not None:
            slot.trigger.quiet_value(self.result_for(place, slot), &value)
        return slot.after(value, &self.clock)

    cdef int act_on_read(self, Py_ssize_t place, Py_ssize_t listed, Slot slot) except -1:
        # The one read that TensorFlow makes too; what it does with the value, the trigger does.
        cdef int decision
        if self.times is not None:
            # Slow or not, it cannot be called less often.
            self.times_of(slot, listed).settled = True
            self.times.begin_call(slot.times, True)
        global_step = self.dispatcher.runs.read(slot.tensor_now())
        decision = slot.after_read(global_step, &self.clock)
        if decision == ACT:
            slot.trigger.act_on_read(slot.hook, self.context, global_step)
        self.clock.known = False
        if self.times is not None:
            self.times.end_call()
        if decision != ACT and decision != QUIET:
            self.act(slot, listed, self.result_for(place, slot))
        return 0

    cdef int act(self, Slot slot, Py_ssize_t listed, object result) except -1:
        context = self.context
        if self.protos is None:
            self.protos = RunProtos.__new__(RunProtos)
        if slot.only_reads():
            context = ReadingContext(self.context, self.dispatcher.runs)
        values = new_values(result, self.protos)
        if self.times is not None:
            self.times.begin_call(self.times_of(slot, listed), True)
        slot.hook.after_run(context, values)
        self.clock.known = False
        if self.times is not None:
            self.times.end_call()
        if slot.trigger is not None:
            slot.trigger.acted(result)
        return 0

    cdef int introduce(self, Plan plan) except -1:
        # Tells the profile, once, which hooks were asked and want something.
        cdef SessionTimes session = self.times.session
        cdef Py_ssize_t i
        if session.plan(plan.number) is None:
            acting = tuple([self.times_of(<Slot>self.slots[i], i) for i in range(len(self.slots))
                            if self.asked[i] and self.requests[i + 1] is not None])
            session.new_plan(plan.number, plan.caller, plan.step_index(), acting)
        return 0

    cdef HookTimes times_of(self, Slot slot, Py_ssize_t listed):
        if slot.timed_in is not self.times.session:
            slot.times = self.times.session.of_hook(slot.hook, listed)
            slot.timed_in = self.times.session
        return slot.times

    cdef object result_for(self, Py_ssize_t place, Slot slot):
        if self.prepared is None:
            return self.outputs.get(slot.hook)
        if self.results is not None:
            return self.results[place + 1]
        part = <Template>self.prepared.plan.parts[place + 1]
        return None if part is None else built(part, self.values, held(part, self.prepared.requests[place + 1]))


cdef Py_ssize_t _place(object slots, Py_ssize_t expected, object hook) except -2:
    # Where the slot of `hook` is, most likely at `expected`; -1: nowhere.
    cdef Py_ssize_t i, n = len(slots)
    if expected < n and (<Slot>slots[expected]).hook is hook:
        return expected
    for i in range(n):
        if (<Slot>slots[i]).hook is hook:
            return i
    return -1


cdef Slot _slot_of(tuple known, Py_ssize_t expected, object hook):
    cdef Py_ssize_t place = _place(known, expected, hook)
    return <Slot>known[place] if place >= 0 else Slot(hook)


cdef class ReadingContext:
    """Context and session in one for TensorFlow's own `after_run` methods, whose reads then take a plan too.

    No code but theirs ever sees it.
    """

    cdef RunContextBase context
    cdef PreparedRuns runs

    def __cinit__(self, RunContextBase context not None, PreparedRuns runs not None):
        self.context = context
        self.runs = runs

    @property
    def session(self):
        return self

    def run(self, tensor):
        """Returns the value of a tensor, as the raw session's `run` does."""
        return self.runs.read(tensor)

    def request_stop(self):
        """Passes the request on to the run's context."""
        self.context.request_stop()
