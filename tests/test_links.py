"""`should_stop` and `run` of TensorFlow's sessions whose steps are compiled: a link is called if it has a say, and only then."""

import contextlib
import gc
import re
import sys
import threading
import traceback
import weakref
from unittest import mock

import pytest
import tensorflow as tf
from helpers import v1
from tensorflow.python.training import coordinator as coordinator_lib
from tensorflow.python.training import monitored_session

import fasthooks

MonitoredSession = monitored_session._MonitoredSession
FILES = (monitored_session.__file__, coordinator_lib.__file__, threading.__file__)


@contextlib.contextmanager
def opened(way, make=v1.train.MonitoredSession, **options):
    """A session after two steps, and what it runs."""
    hook = (fasthooks if way == "adopted" else v1.train).StopAtStepHook(last_step=10)
    with fasthooks.patch() if way == "patched" else contextlib.nullcontext(), tf.Graph().as_default():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        with make(hooks=[hook], **options) as session:
            for _ in range(2):
                session.run(op)
            yield session, op


def called(function, *args):
    """What a function returns, and which functions of TensorFlow's links it called for that."""
    calls = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename in FILES:
            calls.append(frame.f_code.co_name)

    gc.disable()  # what other tests left may call functions of `threading` when it is collected
    sys.setprofile(note)
    try:
        return function(*args), calls
    finally:
        sys.setprofile(None)
        gc.enable()


def asked(session):
    """What the session answers, and which functions were called for that; TensorFlow's own answers the same."""
    answer, calls = called(session.should_stop)
    asking = MonitoredSession.should_stop
    assert answer == getattr(asking, "__wrapped__", asking)(session)
    return answer, calls


def links(session):
    """Recoverable (or coordinated), coordinated and hooked session."""
    outer = session._sess
    coordinated = outer if type(outer) is monitored_session._CoordinatedSession else outer._sess
    return outer, coordinated, coordinated._sess


@pytest.mark.parametrize("way", ["patched", "adopted"])
@pytest.mark.parametrize("make", ["MonitoredSession", "SingularMonitoredSession", "MonitoredTrainingSession"])
def test_a_training(way, make):
    with opened(way, getattr(v1.train, make)) as (session, op):
        steps = 2
        while not session.should_stop():
            assert asked(session) == (False, [])
            session.run(op)
            steps += 1
        assert steps == 10
        answer, calls = asked(session)
        assert answer and "is_set" in calls
    assert asked(session)[0]


def test_other_sessions_are_asked_as_ever():
    with opened("adopted"), opened("neither") as (session, _):
        answer, calls = asked(session)
        assert not answer and calls[-1] == "_check_stop"


def test_before_the_first_step_links_are_asked():
    with fasthooks.patch(), tf.Graph().as_default():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        with v1.train.MonitoredSession() as session:
            assert asked(session)[1]
            session.run(op)
            assert asked(session) == (False, [])


@pytest.fixture(params=["patched", "adopted"])
def session(request):
    with opened(request.param) as (session, _):
        assert asked(session) == (False, [])
        yield session


def test_who_asks_for_a_stop_is_heard(session):
    _, coordinated, hooked = links(session)
    with mock.patch.object(hooked, "_should_stop", True):
        assert asked(session)[0]
    with mock.patch.object(hooked, "_should_stop", 0):
        assert asked(session)[1]
    for nothing in (None, ()):
        with mock.patch.object(hooked, "_sess", nothing):
            assert asked(session)[0]
    with mock.patch.object(session, "_sess", None):
        assert asked(session)[0]
    coordinated._coord.request_stop()
    assert asked(session)[0]
    coordinated._coord.clear_stop()
    assert not asked(session)[0]


@pytest.mark.parametrize("make", ["MonitoredSession", "SingularMonitoredSession"])
def test_a_failed_thread_is_heard(make):
    with opened("patched", getattr(v1.train, make)) as (session, _):
        coordinator = links(session)[1]._coord
        try:
            raise ValueError("of a thread")
        except ValueError:
            coordinator.request_stop(sys.exc_info())
        with mock.patch.object(coordinator, "_stop_event", threading.Event()):
            if make == "MonitoredSession":
                assert asked(session)[0]
            else:
                with pytest.raises(ValueError, match="of a thread"):
                    session.should_stop()
        coordinator.clear_stop()


@pytest.mark.parametrize("way", ["patched", "adopted", "ours"])
def test_a_thread_that_is_telling_of_its_failure_is_waited_for(way):
    told, goes_on = threading.Event(), threading.Event()

    class Slow(Exception):
        def __str__(self):
            told.set()
            goes_on.wait(10)
            return "slow"

    def fail():
        try:
            raise Slow
        except Slow as error:
            coordinator.request_stop(error)

    with opened(way, (fasthooks if way == "ours" else v1.train).MonitoredSession) as (session, _):
        coordinator = links(session)[1]._coord
        failing = threading.Thread(target=fail)
        failing.start()
        assert told.wait(10)
        timer = threading.Timer(0.2, goes_on.set)
        timer.start()
        assert session.should_stop() and goes_on.is_set()
        failing.join()
        timer.join()
        coordinator.clear_stop()


def test_attributes_of_another_kind_are_left_to_tensorflow(session):
    class Fields(dict):
        pass

    for owner in (*links(session), links(session)[1]._coord, links(session)[1]._coord._stop_event):
        own = owner.__dict__
        owner.__dict__ = Fields(own)
        assert asked(session)[1]
        owner.__dict__ = own
    lock = mock.MagicMock()
    lock.locked.return_value = False
    with mock.patch.object(links(session)[1]._coord, "_lock", lock):
        assert not session.should_stop() and mock.call.__enter__() in lock.mock_calls


@pytest.mark.parametrize("link", range(3))
@pytest.mark.parametrize("name", ["should_stop", "_check_stop"])
def test_methods_set_on_links_are_called(session, link, name):
    owner = links(session)[link]
    with mock.patch.object(owner, name, return_value=True):
        assert asked(session)[0]
    assert not asked(session)[0]


@pytest.mark.parametrize(("owner", "name"), [
    (monitored_session._RecoverableSession, "_check_stop"), (monitored_session._CoordinatedSession, "_check_stop"),
    (monitored_session._HookedSession, "_check_stop"), (monitored_session._WrappedSession, "should_stop"),
    (coordinator_lib.Coordinator, "should_stop"), (coordinator_lib.Coordinator, "raise_requested_exception"),
    (threading.Event, "is_set")], ids=lambda value: getattr(value, "__name__", value))
def test_methods_replaced_on_classes_are_called(session, owner, name):
    with mock.patch.object(owner, name, autospec=True, return_value=name != "raise_requested_exception") as replaced:
        assert session.should_stop() == (name != "raise_requested_exception")
    assert replaced.mock_calls
    assert not asked(session)[0]


def test_methods_set_on_the_coordinator_and_its_flag_are_called(session):
    coordinator = links(session)[1]._coord
    for owner, name in ((coordinator, "should_stop"), (coordinator._stop_event, "is_set")):
        with mock.patch.object(owner, name, return_value=True):
            assert asked(session)[0]
    with mock.patch.object(coordinator, "raise_requested_exception", side_effect=KeyError):
        assert asked(session)[0]
    assert not asked(session)[0]


def test_links_and_coordinators_of_others_are_asked(session):
    outer, coordinated, hooked = links(session)

    class Coordinator(coordinator_lib.Coordinator):
        def should_stop(self):
            return True

    class Flag(threading.Event):
        def is_set(self):
            return True

    def like(obj, name):
        made = type(obj).__new__(type(name, (type(obj),), {"_check_stop": lambda self: True}))
        vars(made).update(vars(obj))
        return made

    for owner, name, other in (
            (coordinated, "_coord", Coordinator()), (coordinated._coord, "_stop_event", Flag()),
            (session, "_sess", like(outer, "Outer")), (outer, "_sess", like(coordinated, "Coordinated"))):
        with mock.patch.object(owner, name, other):
            assert asked(session)[0]
    with mock.patch.object(coordinated, "_sess", like(hooked, "Hooked")):
        assert asked(session)[1]
    assert not asked(session)[0]


def test_a_raw_session_that_can_stop_is_asked(session):
    hooked = links(session)[2]
    stops = mock.Mock()
    stops.should_stop.return_value = True
    with mock.patch.object(hooked, "_wrapped_is_stoppable", True), mock.patch.object(hooked, "_sess", stops):
        assert session.should_stop()
    stops.should_stop.assert_called_once_with()


def test_a_recovered_session_goes_on():
    class Failing(v1.train.SessionRunHook):
        fails = True

        def after_run(self, run_context, run_values):
            if self.fails:
                self.fails = False
                raise tf.errors.AbortedError(None, None, "once")

    with fasthooks.patch(), tf.Graph().as_default():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        with v1.train.MonitoredSession(hooks=[Failing(), v1.train.StopAtStepHook(num_steps=4)]) as session:
            made = []
            while not session.should_stop():
                made.append(session.run(op))
            assert made == [1, 2, 3, 4]


def test_a_replaced_method_stays_and_ours_passes_on():
    with mock.patch.object(MonitoredSession, "should_stop", return_value="theirs"):
        with opened("patched") as (session, _):
            assert session.should_stop() == "theirs"
    with opened("patched") as (session, _):
        ours = MonitoredSession.should_stop
        with mock.patch.object(MonitoredSession, "should_stop", lambda self: ours(self)):
            fasthooks.unpatch()
            assert not session.should_stop()


# `run`


@pytest.mark.parametrize("way", ["patched", "adopted"])
@pytest.mark.parametrize("make", ["MonitoredSession", "SingularMonitoredSession", "MonitoredTrainingSession"])
def test_a_step_goes_round_the_links(way, make):
    with opened(way, getattr(v1.train, make)) as (session, op):
        for _ in range(6):
            assert called(session.run, op)[1] == []
        # Nothing orders the hook's read of the step and the step: where it sees 9 already, it reads once more.
        at = session.run(op)
        assert at == 9 and fasthooks.report(session)["planned_steps"] == 9
        at, calls = called(session.run, op)  # the hook reads the step by a run, and stops
        assert at == 10 and "run" not in calls
        with pytest.raises(RuntimeError, match="Run called even after should_stop requested"):
            session.run(op)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'run'"):
        session.run(op)


def test_other_sessions_run_as_ever():
    with opened("adopted"), opened("neither") as (session, op):
        assert called(session.run, op)[1].count("run") == 5


def test_the_first_step_is_passed_on():
    with fasthooks.patch(), tf.Graph().as_default():
        op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
        with v1.train.MonitoredSession() as session:
            assert called(session.run, op)[1].count("run") == 3
            assert called(session.run, op) == (2, [])


def test_given_options_are_passed_on(running):
    session, op = running
    metadata = v1.RunMetadata()
    assert session.run(op, options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE), run_metadata=metadata) == 4
    assert metadata.step_stats.dev_stats


@pytest.fixture(params=["patched", "adopted"])
def running(request):
    with opened(request.param) as (session, op):
        assert called(session.run, op) == (3, [])
        yield session, op


@pytest.mark.parametrize("link", range(3))
def test_a_run_set_on_a_link_is_called(running, link):
    session, op = running
    with mock.patch.object(links(session)[link], "run", return_value="theirs"):
        assert session.run(op) == "theirs"
    assert called(session.run, op) == (4, [])


@pytest.mark.parametrize("name", ["should_stop", "_check_stop"])
def test_a_stop_set_on_the_hooked_link_is_heard(running, name):
    session, op = running
    with mock.patch.object(links(session)[2], name, return_value=True):
        with pytest.raises(RuntimeError, match="Run called even after should_stop requested"):
            session.run(op)
    assert called(session.run, op) == (4, [])


@pytest.mark.parametrize("owner", [
    MonitoredSession, monitored_session._RecoverableSession, monitored_session._CoordinatedSession,
    monitored_session._HookedSession, monitored_session._WrappedSession], ids=lambda owner: owner.__name__)
def test_a_run_replaced_on_a_class_is_called(running, owner):
    session, op = running
    usual = owner.run
    with mock.patch.object(owner, "run", autospec=True, side_effect=usual) as replaced:
        assert session.run(op) == 4
    assert replaced.mock_calls
    assert called(session.run, op) == (5, [])


@pytest.mark.parametrize("name", ["_call_hook_before_run", "should_stop"])
def test_what_the_hooked_link_calls_is_called(running, name):
    session, op = running
    owner = monitored_session._HookedSession
    with mock.patch.object(owner, name, autospec=True, side_effect=getattr(owner, name)) as replaced:
        assert session.run(op) == 4
    assert replaced.mock_calls
    assert called(session.run, op) == (5, [])


def test_links_of_others_run_the_step(running):
    session, op = running
    outer, coordinated, hooked = links(session)

    def like(obj):
        made = type(obj).__new__(type("Other", (type(obj),), {"run": lambda self, *args, **kwargs: "theirs"}))
        vars(made).update(vars(obj))
        return made

    for owner, other in ((session, like(outer)), (outer, like(coordinated)), (coordinated, like(hooked))):
        with mock.patch.object(owner, "_sess", other):
            assert session.run(op) == "theirs"
    assert called(session.run, op) == (4, [])


def test_attributes_of_another_kind(running):
    class Fields(dict):
        pass

    session, op = running
    for number, owner in enumerate((*links(session), links(session)[1]._coord)):
        own = owner.__dict__
        owner.__dict__ = Fields(own)
        assert session.run(op) == 4 + number
        owner.__dict__ = own
    assert called(session.run, op) == (8, [])


def test_without_our_hook_a_session_is_left_alone():
    with opened("adopted") as (session, op):
        hooked = links(session)[2]
        own, hooked._hooks = hooked._hooks, [v1.train.StopAtStepHook(last_step=10)]
        hooked._hooks[0].begin()
        hooked._hooks[0].after_create_session(session, None)
        assert called(session.run, op)[1].count("run") == 5
        hooked._hooks = own
        assert called(session.run, op) == (4, [])
        fasthooks.adopt(False)
        assert called(session.run, op)[1].count("run") == 5
        fasthooks.adopt()
        assert called(session.run, op) == (6, [])


def test_put_back_by_somebody_ours_pass_on(monkeypatch):
    with opened("adopted") as (session, op):
        ours = {owner: owner.run for owner in (MonitoredSession, monitored_session._HookedSession)}
        fasthooks.adopt(False)
        for owner, run in ours.items():
            monkeypatch.setattr(owner, "run", run)
        assert called(session.run, op)[1].count("run") == 5
        monkeypatch.undo()
        fasthooks.adopt()


def test_it_ends_with_the_patch():
    with opened("patched") as (session, op):
        fasthooks.unpatch()
        assert called(session.run, op)[1].count("run") == 5


def test_a_hooked_session_without_other_links_stops_too():
    with fasthooks.patch(), tf.Graph().as_default(), v1.Session() as raw:
        hooked = monitored_session._HookedSession(raw, [])
        one = tf.constant(1)
        assert [hooked.run(one) for _ in range(2)] == [1, 1]
        hooked._should_stop = 0  # as a program may have left it
        assert hooked.run(one) == 1 and hooked._should_stop is False
        hooked._should_stop = True
        with pytest.raises(RuntimeError, match="Run called even after should_stop requested"):
            hooked.run(one)


# What a failed step means


class Told(v1.train.SessionRunHook):
    """Does what it was told to, when it is called."""

    def __init__(self):
        self.tasks, self.created = {}, []

    def after_create_session(self, session, coord):
        self.created.append(coord)

    def _do(self, name):
        if self.tasks.get(name):
            self.tasks[name].pop(0)()

    def before_run(self, run_context):
        self._do("before")

    def after_run(self, run_context, run_values):
        self._do("after")


def raises(error, message="told to"):
    def fail():
        raise error(None, None, message) if issubclass(error, tf.errors.OpError) else error(message)

    return fail


def raises_while_handling(error):
    def fail():
        try:
            raise KeyError("before")
        except KeyError:
            raises(error)()

    return fail


def fails_thread(error, coordinators):
    """What makes a thread of the session's coordinator fail."""
    def fail():
        thread = threading.Thread(target=lambda: coordinators[-1].request_stop(raised(error)))
        thread.start()
        thread.join()

    return fail


def raised(error):
    try:
        raises(error, "of a thread")()
    except Exception:
        return sys.exc_info()


def both(*tasks):
    return lambda: [task() for task in tasks]


ABORTED, UNAVAILABLE, OUT_OF_RANGE = tf.errors.AbortedError, tf.errors.UnavailableError, tf.errors.OutOfRangeError
FAILURES = {
    "aborted": lambda told: {"before": [raises(ABORTED)]},
    "unavailable, twice": lambda told: {"after": [raises(UNAVAILABLE), raises(UNAVAILABLE)]},
    "value": lambda told: {"after": [raises(ValueError)]},
    "end of data": lambda told: {"before": [raises(OUT_OF_RANGE)]},
    "interrupt": lambda told: {"after": [raises(KeyboardInterrupt)]},
    "stop iteration": lambda told: {"after": [raises(StopIteration)]},
    "value, a thread's": lambda told: {"after": [both(fails_thread(KeyError, told.created), raises(ValueError))]},
    "value, a thread was aborted": lambda told: {"before": [both(fails_thread(ABORTED, told.created), raises(ValueError))]},
    "aborted, a thread's": lambda told: {"before": [both(fails_thread(ValueError, told.created), raises(ABORTED))]},
    "aborted, thread's too": lambda told: {"after": [both(fails_thread(UNAVAILABLE, told.created), raises(ABORTED))]},
    "value, while another is handled": lambda told: {"after": [raises_while_handling(ValueError)]},
    "value, a thread's, while another is handled": lambda told: {
        "after": [both(fails_thread(KeyError, told.created), raises_while_handling(ValueError))]},
    "aborted, then value": lambda told: {"before": [raises(ABORTED), raises(ValueError)]},
}


def seen_of(error):
    """Types and words of an error and of those that it shows with it."""
    seen = []
    while error is not None:
        seen.append((type(error), str(error), error.__suppress_context__))
        error = error.__cause__ or error.__context__
    return seen


@pytest.mark.parametrize("make", ["MonitoredSession", "SingularMonitoredSession"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("handles", [False, True], ids=["", "in a handler"])
def test_a_failed_step_means_what_it_does_to_tensorflow(make, failure, handles, caplog):
    def outcome(way):
        api = fasthooks if way in ("ours", "adopted") else v1.train
        told, ends = Told(), []
        caplog.clear()

        def tell(action):
            try:
                ends.append(action())
            except BaseException as error:
                ends.append(seen_of(error))

        with fasthooks.patch() if way == "patched" else contextlib.nullcontext(), tf.Graph().as_default():
            op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
            session = getattr(fasthooks if way == "ours" else v1.train, make)(hooks=[told, api.StopAtStepHook(last_step=100)])
            assert [session.run(op) for _ in range(3)] == [1, 2, 3]
            if way != "neither":
                assert fasthooks.report(session)["planned_steps"] == 3
            told.tasks = FAILURES[failure](told)
            for _ in range(4):
                try:
                    raise LookupError("of the loop")
                except LookupError:
                    if handles:
                        tell(lambda: session.run(op))
                if not handles:
                    tell(lambda: session.run(op))
                tell(session.should_stop)
                ends.append(len(told.created))
            tell(session.close)
        lines = [re.sub("0x[0-9a-f]+", "", record.getMessage()) for record in caplog.records]
        return ends, [line for line in lines if "fasthooks" not in line]

    stock = outcome("neither")
    for way in ("patched", "adopted", "ours"):
        assert outcome(way) == stock


@pytest.mark.parametrize("make", ["MonitoredSession", "SingularMonitoredSession"])
@pytest.mark.parametrize("way", ["patched", "adopted", "ours"])
def test_a_traceback_has_the_way_of_the_step_once(way, make):
    with opened(way, getattr(fasthooks if way == "ours" else v1.train, make)) as (session, op):
        told = Told()
        told.tasks = {"after": [raises(ValueError)]}
        links(session)[2]._hooks.append(told)
        with pytest.raises(ValueError, match="told to") as raised:
            session.run(op)
        frames = traceback.extract_tb(raised.tb)
        assert [frame.name for frame in frames[-3:]] == ["after_run", "_do", "fail"] and frames[0].filename == __file__
        assert not [frame for frame in frames if frame.filename in FILES]


@pytest.mark.parametrize("way", ["neither", "patched", "adopted", "ours"])
def test_nothing_of_a_lost_session_lives_on_in_the_repeated_step(way):
    made, living = [], []

    class Creator(v1.train.ChiefSessionCreator):
        def create_session(self):
            session = super().create_session()
            made.append(weakref.ref(session))
            return session

    def look():
        living.append([session() is not None for session in made])

    told = Told()
    api = fasthooks if way in ("ours", "adopted") else v1.train
    gc.collect()
    gc.disable()
    try:
        with fasthooks.patch() if way == "patched" else contextlib.nullcontext(), tf.Graph().as_default():
            op = v1.assign_add(v1.train.get_or_create_global_step(), 1)
            hooks = [told, api.StopAtStepHook(last_step=100)]
            with (fasthooks if way == "ours" else v1.train).MonitoredSession(Creator(), hooks) as session:
                for _ in range(3):
                    session.run(op)
                told.tasks = {"after": [raises(ABORTED)], "before": [look, look]}
                session.run(op)
    finally:
        gc.enable()
    assert living == [[True], [False, True]]


@pytest.mark.parametrize("way", ["patched", "ours"])
def test_no_other_links_are_made_for_a_failed_step(way):
    with opened(way, (fasthooks if way == "ours" else v1.train).MonitoredSession) as (session, op):
        told = Told()
        told.tasks = {"after": [raises(ValueError)]}
        links(session)[2]._hooks.append(told)
        with mock.patch.object(monitored_session._CoordinatedSession, "__init__") as make:
            with pytest.raises(ValueError, match="told to"):
                session.run(op)
        assert not make.mock_calls
