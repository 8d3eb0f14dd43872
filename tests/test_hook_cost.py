"""What a hook adds to a step: the measurement, and the pytest fixture with every option of pytest-benchmark that it is to take.

Nothing here asserts on time. Limits are so far away that a figure is on one side of them whatever the machine does.
"""

import functools
import json
import math
import os
import random
import statistics
import sys
import textwrap
import warnings

import pytest
import tensorflow as tf

import fasthooks as fh
from fasthooks import hook_cost as engine

pytest_plugins = ["pytester"]

v1 = tf.compat.v1
BENCHMARK = pytest.importorskip("pytest_benchmark").__version__
QUICK = ("--benchmark-max-time=0.01", "--benchmark-columns=median,rounds")

HOOKS = """
    import pytest
    import tensorflow as tf

    class LossHook(tf.compat.v1.train.SessionRunHook):
        def before_run(self, run_context):
            return tf.compat.v1.train.SessionRunArgs("loss:0")

        def after_run(self, run_context, run_values):
            assert run_values.results >= 0
"""


class CountingHook(v1.train.SessionRunHook):
    """Counts its calls."""

    def __init__(self, calls=None):
        self.calls = {} if calls is None else calls

    def count(self, name):
        self.calls[name] = self.calls.get(name, 0) + 1

    def begin(self):
        self.count("begin")

    def after_create_session(self, session, coord):
        self.count("after_create_session")

    def before_run(self, run_context):
        self.count("before_run")

    def after_run(self, run_context, run_values):
        self.count("after_run")

    def end(self, session):
        self.count("end")


@pytest.fixture(scope="module", autouse=True)
def _all_imported():
    # pytester forgets what is first imported in a run, and TensorFlow cannot be imported twice. Hypothesis, whose plugin imports
    # it at the end of each run, can: that would take most of the time.
    import hypothesis  # noqa: F401

    with engine.Measurement(CountingHook, steps=1) as ours, engine.Measurement(CountingHook, session="tensorflow") as theirs:
        ours.warm_up()
        theirs.run_round()


@pytest.fixture
def suite(pytester, monkeypatch):
    """A function that writes a test file with `LossHook` and runs pytest on it in this process."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)  # pytest-benchmark looks whether it is in a worker
    # It would ask other processes, for seconds.
    pytester.makeconftest("def pytest_benchmark_generate_machine_info(): return {'cpu': 'one'}")

    def run(tests, *options):
        pytester.makepyfile(textwrap.dedent(HOOKS) + textwrap.dedent(tests))
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", "-W", "error", *QUICK, *options)

    return run


ONE_TEST = """
    def test_loss(hook_cost):
        hook_cost(LossHook, steps=5)
"""


def saved(path):
    return json.loads(path.read_text())["benchmarks"]


# The measurement


class Scripted:
    """A side whose pieces take given times, ns."""

    def __init__(self, times):
        self.times = iter(times)

    def run(self, steps):
        return next(self.times)


def test_the_figures_are_those_of_the_definition():
    rounds, steps, draw = 21, 10, functools.partial(random.Random(0).randrange, 10**6)
    pieces = [[[(draw(), draw()) for _ in range(4)] for _ in range(5)] for _ in range(rounds)]
    measurement = engine.Measurement(CountingHook, steps=steps)
    blocks = [block for one in pieces for block in one]
    measurement._with = Scripted([piece for block in blocks for piece in (block[0], block[3])])
    measurement._without = Scripted([piece for block in blocks for piece in (block[1], block[2])])
    figures = [measurement.run_round() for _ in range(rounds)]
    cost = measurement.cost()

    def added(block, clock):
        return (block[0][clock] + block[3][clock] - block[1][clock] - block[2][clock]) / 2 / steps / 1000

    expected = [statistics.median(added(block, 0) for block in one) for one in pieces]
    assert figures == pytest.approx(expected)
    assert cost.added_us == pytest.approx(statistics.median(expected))
    assert cost.cpu_us == pytest.approx(statistics.median(statistics.median(added(block, 1) for block in one) for one in pieces))
    assert (cost.low_us, cost.high_us) == pytest.approx((sorted(expected)[5], sorted(expected)[15]))  # tables: 6 and 16 of 21
    assert cost.with_us == pytest.approx(statistics.median((b[0][0] + b[3][0]) / 2 / steps / 1000 for b in blocks))
    assert cost.without_us == pytest.approx(statistics.median((b[1][0] + b[2][0]) / 2 / steps / 1000 for b in blocks))
    assert cost.noise_us == pytest.approx(statistics.median(abs(b[1][0] - b[2][0]) / steps / 1000 for b in blocks))
    assert (cost.rounds, cost.steps) == (rounds, steps)
    assert measurement.cost(3).added_us == pytest.approx(statistics.median(expected[:3])) and measurement.cost(3).rounds == 3


@pytest.mark.parametrize("n", [*range(6, 60), 1000])
def test_the_interval_is_the_narrowest_of_95_percent(n):
    low, high = engine._interval_of_median(range(n))
    assert low + high == n - 1  # as many below as above

    def missed(outside):  # how often the median lies outside, if so many of the n values are left out at each end
        return 2 * sum(math.comb(n, k) for k in range(outside + 1)) / 2**n

    assert missed(low) <= 0.05 < missed(low + 1)


def test_few_rounds_give_the_whole_range():
    assert engine._interval_of_median([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert engine._interval_of_median([1.0]) == (1.0, 1.0)


@pytest.mark.parametrize("session", ["fasthooks", "tensorflow"])
def test_sessions_take_turns_and_only_one_has_the_hook(session):
    with_calls, both_calls = {}, {}
    with engine.Measurement(lambda: CountingHook(with_calls), beside=lambda: [CountingHook(both_calls)], steps=7,
                            session=session) as measurement:
        hooks = [side._session._hooks for side in (measurement._with, measurement._without)]
        assert [[hook.calls is with_calls for hook in side] for side in hooks] == [[False, True], [False]]
        assert isinstance(measurement._with._session, fh.MonitoredSession) == (session == "fasthooks")
        measurement.run_round()
    assert with_calls == {"begin": 1, "after_create_session": 1, "before_run": 70, "after_run": 70, "end": 1}
    assert both_calls == {name: 2 * count for name, count in with_calls.items()}


@pytest.mark.parametrize(("scheduling", "expected"), [(None, "inline"), ("inline", "inline"), ("pool", "pool")])
def test_scheduling_of_the_tiny_model(scheduling, expected):
    with engine.Measurement(CountingHook, steps=1, scheduling=scheduling) as measurement:
        measurement.run_round()
        assert measurement.schedulings == (expected, expected)
        assert fh.report(measurement._with._session)["declined"] == {}


def test_tensorflows_session_runs_on_its_pool():
    with engine.Measurement(CountingHook, steps=1, session="tensorflow") as measurement:
        measurement.run_round()
        assert measurement.schedulings == ("pool", "pool")
        with pytest.raises(TypeError):
            fh.report(measurement._with._session)


def test_a_hook_of_ours_in_tensorflows_session_has_its_steps_compiled():
    make_hook = lambda: fh.NanTensorHook(v1.get_default_graph().get_tensor_by_name("loss:0"))  # noqa: E731
    with engine.Measurement(make_hook, steps=5, session="tensorflow") as measurement:
        measurement.run_round()
        assert fh.report(measurement._with._session)["planned_steps"] == 50


def own_model():
    x = v1.placeholder(tf.float32, [], name="x")
    return tf.multiply(x, 2.0, name="twice"), {x: 21.0}


def test_another_model_is_fed_and_scheduled_by_itself():
    seen = []

    class Twice(v1.train.SessionRunHook):
        def before_run(self, run_context):
            return v1.train.SessionRunArgs("twice:0", feed_dict=None)

        def after_run(self, run_context, run_values):
            seen.append(float(run_values.results))
            seen.append(list(run_context.original_args.feed_dict.values()))

    with engine.Measurement(Twice, model=own_model, steps=1) as measurement:
        assert measurement._scheduling == "auto"
        measurement.run_round()
    assert seen == [42.0, [21.0]] * 10


def test_a_tuple_without_a_dict_is_what_is_run():
    def model():
        return tf.constant(1.0), tf.constant(2.0)

    with engine.Measurement(CountingHook, model=model, steps=1) as measurement:
        assert len(measurement._with._fetches) == 2 and measurement._with._feed is None
        measurement.run_round()


@pytest.mark.parametrize("decided", [("inline", "pool"), ("pool", "inline"), ("trial", "trial")])
def test_sides_that_auto_schedules_differently_are_both_made_anew(monkeypatch, decided):
    calls = {}
    with engine.Measurement(lambda: CountingHook(calls), model=own_model, steps=1) as measurement:
        with monkeypatch.context() as patch:
            patch.setattr(engine.Measurement, "schedulings", decided)
            with pytest.warns(UserWarning, match="{!r} for the steps with the hook and {!r} for those without".format(*decided)):
                measurement.warm_up()
        assert (calls["begin"], calls["end"], calls["after_run"]) == (2, 1, 2 * engine._WARM_UP_STEPS + 1)
        assert measurement.schedulings == ("pool", "pool")
        measurement.run_round()
        assert {plan["reason"] for plan in fh.report(measurement._with._session)["plans"]} == {"asked for"}


@pytest.mark.parametrize("decided", [("inline", "inline"), ("pool", "pool")])
def test_sides_that_auto_schedules_alike_stay(monkeypatch, decided):
    calls = {}
    with engine.Measurement(lambda: CountingHook(calls), model=own_model, steps=1) as measurement:
        monkeypatch.setattr(engine.Measurement, "schedulings", decided)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert measurement.warm_up() > 0
        assert calls["begin"] == 1


def test_a_warm_up_is_at_least_a_piece():
    calls = {}
    with engine.Measurement(lambda: CountingHook(calls), steps=1000) as measurement:
        measurement.warm_up()
    assert calls["after_run"] == 2000  # the second thousand tells how long a round takes


class RaisingHook(v1.train.SessionRunHook):
    def __init__(self, where):
        self.error = ValueError(where)

        def fail(*_):
            raise self.error

        setattr(self, where, fail)


@pytest.mark.parametrize("where", ["begin", "after_create_session", "before_run", "after_run", "end"])
def test_an_exception_of_a_hook_is_raised_as_it_is(where):
    hook, calls = RaisingHook(where), {}
    with pytest.raises(ValueError, match=where) as raised:
        with engine.Measurement(lambda: hook, beside=lambda: [CountingHook(calls)], steps=1) as measurement:
            measurement.run_round()
    assert raised.value is hook.error
    assert calls.get("end", 0) == (2 if where == "end" else 0)  # as in TensorFlow: `end` on a normal end


def test_an_exception_closes_both_sessions():
    with pytest.raises(ZeroDivisionError):
        with engine.Measurement(CountingHook, steps=1) as measurement:
            raise ZeroDivisionError
    assert [side._session._is_closed() for side in (measurement._with, measurement._without)] == [True, True]


def test_a_model_that_fails_the_second_time_closes_the_first_session():
    closed, calls = [], []

    def model():
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return engine.tiny_model()

    class Watching(v1.train.SessionRunHook):
        def after_create_session(self, session, coord):
            closed.append(session)

    with pytest.raises(ZeroDivisionError), engine.Measurement(Watching, model=model):
        raise AssertionError("it was not to be entered")
    assert [session._closed for session in closed] == [True]


def test_input_that_is_used_up_is_an_error():
    def model():
        return v1.data.make_one_shot_iterator(tf.data.Dataset.range(20)).get_next()

    calls = {}
    with pytest.raises(tf.errors.OutOfRangeError):
        with engine.Measurement(lambda: CountingHook(calls), model=model, steps=10) as measurement:
            measurement.run_round()
    assert (calls["after_run"], calls["end"]) == (20, 1)  # as in TensorFlow, where this is a normal end


@pytest.mark.parametrize("session", ["fasthooks", "tensorflow"])
@pytest.mark.parametrize("make", [lambda: fh.StopAtStepHook(last_step=13), lambda: v1.train.StopAtStepHook(last_step=13)])
def test_a_stop_is_an_error_that_tells_the_step(session, make):
    with pytest.raises(engine.StoppedError, match=r"stop at step 13\b"):
        with engine.Measurement(make, steps=2, session=session) as measurement:
            measurement.run_round()


def test_hooks_that_run_the_session_themselves():
    class Running(v1.train.SessionRunHook):
        steps = 0

        def after_run(self, run_context, run_values):
            self.steps = run_context.session.run(v1.train.get_global_step())

    hook = Running()
    with engine.Measurement(lambda: hook, steps=3) as measurement:
        measurement.run_round()
    assert hook.steps == 30


@pytest.mark.parametrize("train", [v1.train, fh], ids=["tensorflow", "fasthooks"])
def test_a_list_of_stock_hooks(train, tmp_path):
    def hooks():
        loss = v1.get_default_graph().get_tensor_by_name("loss:0")
        return [train.NanTensorHook(loss), train.StepCounterHook(10, output_dir=str(tmp_path)),
                train.CheckpointSaverHook(str(tmp_path), save_steps=50)]

    with engine.Measurement(hooks, steps=10) as measurement:
        measurement.run_round()
        assert math.isfinite(measurement.cost().added_us)
        assert fh.report(measurement._with._session)["declined"] == {}
    assert tf.train.latest_checkpoint(str(tmp_path)).endswith("model.ckpt-100")


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"make_hook": CountingHook()}, TypeError, "make_hook must be a function that returns a hook; got <"),
    ({"steps": 2.0}, TypeError, r"steps must be an int; got 2\.0"),
    ({"steps": True}, TypeError, "steps must be an int; got True"),
    ({"steps": 0}, ValueError, "steps must be at least 1; got 0"),
    ({"session": "keras"}, ValueError, "session must be 'fasthooks' or 'tensorflow'; got 'keras'"),
    ({"session": "tensorflow", "scheduling": "pool"}, ValueError, "scheduling is for session='fasthooks'; got 'pool'"),
])
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        engine.Measurement(**{"make_hook": CountingHook, **arguments})


def test_a_scheduling_that_is_none():
    with pytest.raises(ValueError, match=r"scheduling must be one of .* got 'fast'"):
        engine.Measurement(CountingHook, scheduling="fast").__enter__()


# The fixture


def test_tables(suite):
    result = suite("""
        def test_loss(hook_cost):
            cost = hook_cost(LossHook, steps=5, max_us=1e9)
            assert cost.low_us <= cost.added_us <= cost.high_us
            assert cost.rounds >= 15 and cost.steps == 5

        def test_plain(benchmark):
            benchmark(str)
    """)
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines_random([
        r"=+ hook cost, added µs per step =+",
        r" +median +95 % interval +with +without +noise",
        r"test_tables\.py::test_loss +-?\d+\.\d\d +-?\d+\.\d\d \.\. -?\d+\.\d\d +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d",
        r"-+ benchmark: 1 tests -+",
        r"-+ benchmark 'hook cost': 1 tests -+",
        r"Name \(time in us\) +Median.*",
    ])


def test_no_section_without_a_figure(suite):
    result = suite("def test_nothing(): pass")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*hook cost*")


@pytest.mark.skipif(BENCHMARK.startswith("4."), reason="pytest-benchmark 4 has no such option")
def test_the_users_unit_is_kept(suite):
    suite(ONE_TEST, "--benchmark-time-unit=ns").stdout.fnmatch_lines("Name (time in ns)*")


def test_a_group_that_has_other_rows_is_scaled_by_pytest_benchmark(suite):
    result = suite("""
        @pytest.mark.benchmark(group="mixed")
        def test_loss(hook_cost):
            hook_cost(LossHook, steps=5)

        @pytest.mark.benchmark(group="mixed")
        def test_plain(benchmark):
            benchmark(str)
    """)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines("Name (time in ns)*")  # a call of str takes less than 1 µs


@pytest.mark.parametrize("session", ["fasthooks", "tensorflow"])
def test_json(suite, pytester, session):
    result = suite(f"""
        import dataclasses, json

        def test_loss(hook_cost):
            cost = hook_cost(LossHook, steps=5, session={session!r})
            print("COST", json.dumps(dataclasses.asdict(cost)))
    """, "--benchmark-json=figures.json", "-rP")
    result.assert_outcomes(passed=1)
    (row,) = saved(pytester.path / "figures.json")
    (printed,) = [line for line in result.outlines if line.startswith("COST ")]
    cost = json.loads(printed.removeprefix("COST "))
    assert row["group"] == "hook cost" and row["options"]["timer"] == "hook_cost"
    scheduling = "inline" if session == "fasthooks" else "pool"
    assert row["extra_info"] == {**cost, "scheduling_with": scheduling, "scheduling_without": scheduling,
                                 "tensorflow": tf.__version__, "fasthooks": fh.__version__}
    assert row["stats"]["median"] * 1e6 == pytest.approx(cost["added_us"])
    assert len(row["stats"]["data"]) == row["stats"]["rounds"] == cost["rounds"] == 15
    low, high = (sorted(row["stats"]["data"])[place] * 1e6 for place in (3, 11))
    assert (cost["low_us"], cost["high_us"]) == pytest.approx((low, high))


def test_the_users_mark_is_kept(suite, pytester):
    result = suite("""
        @pytest.mark.benchmark(group="mine", min_rounds=17, max_time=1e-6)
        class TestHooks:
            def test_loss(self, hook_cost):
                hook_cost(LossHook, steps=5)

        @pytest.mark.benchmark(max_time=0.5)
        def test_longer(hook_cost):
            assert hook_cost(LossHook, steps=1).rounds > 15
    """, "--benchmark-json=figures.json")
    result.assert_outcomes(passed=2)
    one, other = saved(pytester.path / "figures.json")
    assert (one["group"], one["stats"]["rounds"], other["group"]) == ("mine", 17, "hook cost")


def test_the_options_say_how_many_rounds(suite, pytester):
    suite(ONE_TEST, "--benchmark-min-rounds=18", "--benchmark-json=figures.json").assert_outcomes(passed=1)
    assert saved(pytester.path / "figures.json")[0]["stats"]["rounds"] == 18


def test_autosave_and_compare(suite, pytester):
    suite(ONE_TEST, "--benchmark-autosave").assert_outcomes(passed=1)
    (file,) = pytester.path.glob(".benchmarks/*/0001_*.json")
    before = json.loads(file.read_text())
    for median, regressed in ((10.0, False), (-10.0, True)):  # ten seconds: far from whatever is measured now
        before["benchmarks"][0]["stats"]["median"] = median
        file.write_text(json.dumps(before))
        result = suite(ONE_TEST, "--benchmark-compare=0001", "--benchmark-compare-fail=median:5e-7", "-W", "default")
        assert (result.ret != 0) == regressed
        result.stdout.fnmatch_lines(["*hook cost, added*", "*test_loss (0001_*"])
        assert ("Performance has regressed" in result.stderr.str() + result.stdout.str()) == regressed


def test_cprofile(suite, pytester):
    result = suite(ONE_TEST, "--benchmark-cprofile=ncalls", "--benchmark-json=figures.json")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines_random([r"50\t.*\(before_run\)", r"50\t.*\(after_run\)"])  # ten pieces of five steps
    (row,) = saved(pytester.path / "figures.json")
    # The profiled round is slower and is not among them.
    assert row["stats"]["rounds"] == row["extra_info"]["rounds"] == 15
    assert row["stats"]["median"] * 1e6 == pytest.approx(row["extra_info"]["added_us"])


@pytest.mark.parametrize(("option", "outcomes"), [("--benchmark-only", {"passed": 1, "skipped": 1}),
                                                  ("--benchmark-skip", {"passed": 1, "skipped": 1})])
def test_only_and_skip(suite, option, outcomes):
    result = suite(ONE_TEST + "\n    def test_nothing(): pass\n", option)
    result.assert_outcomes(**outcomes)
    assert ("hook cost" in result.stdout.str()) == (option == "--benchmark-only")


SMOKE_TEST = """
    import dataclasses, math

    def test_smoke(hook_cost):
        calls = []

        class Counting(LossHook):
            def after_run(self, run_context, run_values):
                calls.append(1)

        cost = hook_cost(Counting, steps=5, max_us=-1e9)
        *figures, rounds, steps = dataclasses.astuple(cost)
        assert len(figures) == 7 and all(math.isnan(figure) for figure in figures)
        assert (rounds, steps, len(calls)) == (0, 5, 50)
"""


def test_disabled_benchmarks_are_a_smoke_test(suite):
    result = suite(SMOKE_TEST, "--benchmark-disable")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*hook cost*")


def test_enabled_again(suite):
    suite(ONE_TEST, "--benchmark-disable", "--benchmark-enable").stdout.fnmatch_lines(["*hook cost, added*"])


def test_disabled_benchmarks_still_find_a_stop(suite):
    result = suite("""
        def test_stop(hook_cost):
            hook_cost(lambda: tf.compat.v1.train.StopAtStepHook(last_step=3), steps=5)
    """, "--benchmark-disable")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("A hook requested a stop at step 3: *")


def test_xdist(suite, pytester, monkeypatch):
    pytest.importorskip("xdist")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")  # the worker imports TensorFlow without Keras, in two thirds of the time
    pytester.makepyfile(textwrap.dedent(HOOKS + SMOKE_TEST))
    result = pytester.runpytest_subprocess("-n", "1", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*hook cost*")


def test_without_the_plugin_the_fixture_is_pytests_own_error(pytester):
    pytester.makepyfile(textwrap.dedent(HOOKS + ONE_TEST))
    result = pytester.runpytest_inprocess("-p", "no:benchmark", "-W", "error", "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("E*fixture 'benchmark' not found")


@pytest.mark.parametrize("tests", ["""
    def test_order(benchmark, hook_cost):
        hook_cost(LossHook, steps=5)
""", """
    @pytest.fixture(autouse=True)
    def early(benchmark): pass

    def test_order(hook_cost):
        hook_cost(LossHook, steps=5)
"""], ids=["argument", "fixture"])
def test_benchmark_before_hook_cost_is_a_usage_error(suite, tests):
    result = suite(tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*UsageError: `benchmark` was made before `hook_cost`*")
    result.stdout.no_fnmatch_line("*hook cost, added*")


def test_benchmark_after_hook_cost_is_well(suite, pytester):
    result = suite("""
        def test_order(hook_cost, benchmark):
            benchmark.extra_info["mine"] = 1
            hook_cost(LossHook, steps=5)
    """, "--benchmark-json=figures.json")
    result.assert_outcomes(passed=1)
    assert saved(pytester.path / "figures.json")[0]["extra_info"]["mine"] == 1


def test_max_us(suite):
    result = suite("""
        def test_dear(hook_cost):
            hook_cost(LossHook, steps=5, max_us=-1e9)

        def test_cheap(hook_cost):
            hook_cost(LossHook, steps=5, max_us=1_000_000_000)
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines_random([
        r"The hook adds -?\d+\.\d\d µs to a step, surely more than -?\d.* \(95 % interval: .* \.\. .*\); max_us is -1e\+09\."])
    assert result.stdout.str().count("Traceback") == 0
    assert len([line for line in result.outlines if line.startswith("test_max_us.py::test_") and " .. " in line]) == 2


def test_a_max_us_within_the_interval_is_told(suite):
    result = suite("""
        @pytest.mark.parametrize(("low", "high"), [(1.0, 9.0), (5.0, 9.0), (1.0, 5.0)])
        def test_wide(hook_cost, monkeypatch, low, high):
            monkeypatch.setattr("fasthooks.hook_cost._interval_of_median", lambda values: (low, high))
            hook_cost(LossHook, steps=5, max_us=5)
            monkeypatch.undo()
    """)
    result.assert_outcomes(passed=3)
    told = [line.endswith("   not decided: max_us is 5") for line in result.outlines if " .. " in line]
    assert told == [True, True, False]


@pytest.mark.parametrize("max_us", ["True", "'5'", "float('nan')"])
def test_a_max_us_that_is_no_number(suite, max_us):
    result = suite(f"""
        def test_loss(hook_cost):
            with pytest.raises(TypeError, match="max_us must be a number of µs; got"):
                hook_cost(LossHook, max_us={max_us})
            hook_cost(LossHook, steps=5)
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("enough", [250, 700])  # while it warms up, and while it is measured
def test_a_stop_fails_the_test(suite, pytester, enough):
    result = suite(f"""
        class Stopping(LossHook):
            calls = 0

            def after_run(self, run_context, run_values):
                self.calls += 1
                if self.calls == {enough}:
                    run_context.request_stop()

        def test_stop(hook_cost):
            hook_cost(Stopping)
    """, "-W", "default", *(["--benchmark-json=figures.json"] if enough == 700 else []))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(f"A hook requested a stop at step {enough}: no cost can be measured.")
    result.stdout.no_fnmatch_line("*Traceback*")
    if enough == 700:  # the rounds before that are no figures
        assert saved(pytester.path / "figures.json") == []


def test_an_error_of_the_hook_is_the_tests(suite):
    result = suite("""
        class Failing(LossHook):
            def after_run(self, run_context, run_values):
                raise ZeroDivisionError("mine")

        def test_error(hook_cost):
            hook_cost(Failing)
    """, "-W", "default")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*raise ZeroDivisionError(\"mine\")", "E*ZeroDivisionError: mine"])


def test_own_model_beside_and_a_list(suite, pytester):
    result = suite("""
        def model():
            x = tf.compat.v1.placeholder(tf.float32, [], name="x")
            tf.compat.v1.train.get_or_create_global_step().assign_add(1)
            return {"loss": tf.multiply(x, 2.0, name="loss")}, {x: 21.0}

        def hooks():
            return [LossHook(), tf.compat.v1.train.NanTensorHook(tf.compat.v1.get_default_graph().get_tensor_by_name("loss:0"))]

        def test_all(hook_cost):
            hook_cost(hooks, model=model, beside=lambda: [LossHook()], steps=5, scheduling="pool")
    """, "--benchmark-json=figures.json")
    result.assert_outcomes(passed=1)
    (row,) = saved(pytester.path / "figures.json")
    assert (row["extra_info"]["scheduling_with"], row["extra_info"]["scheduling_without"]) == ("pool", "pool")


def test_a_fixture_of_somebody_else_that_is_called_benchmark(suite):
    # As CodSpeed's, which times a function by itself, and which pytest-benchmark takes for its own.
    result = suite("""
        from pytest_benchmark.fixture import BenchmarkFixture

        class Other:
            __class__ = BenchmarkFixture
            calls = 0

            def __call__(self, target):
                self.calls += 1
                return target()

        @pytest.fixture
        def benchmark():
            return Other()

        def test_loss(hook_cost, benchmark):
            cost = hook_cost(LossHook, steps=5)
            assert cost.rounds == 15 and benchmark.calls == 1
    """)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*hook cost, added*", "*::test_loss *"])
    result.stdout.no_fnmatch_line("*benchmark 'hook cost'*")


def test_a_fixture_of_somebody_else_without_pytest_benchmarks_plugin(pytester, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    pytester.makepyfile(textwrap.dedent(HOOKS) + textwrap.dedent("""
        @pytest.fixture
        def benchmark():
            return lambda target: target()

        def test_loss(hook_cost):
            assert hook_cost(LossHook, steps=5).rounds >= 15
    """))
    # In a process of its own: in this one pytest knows the mark.
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:benchmark", "-W", "error", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*hook cost, added*", "*::test_loss *"])


# Importing the plugin


def run_without(pytester, module, *options):
    """Runs pytest in a fresh process in which `module` cannot be imported."""
    pytester.makepyfile(block=f"import sys; sys.modules[{module!r}] = None")
    return pytester.run(sys.executable, "-m", "pytest", "-p", "block", "-p", "no:cacheprovider", "-p", "no:xdist", *options)


def test_without_pytest_benchmark(pytester):
    pytester.makepyfile("""
        def test_plain(): pass

        def test_cost(hook_cost): pass
    """)
    result = run_without(pytester, "pytest_benchmark", "-p", "no:benchmark", "-W", "error", "--strict-markers")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("hook_cost needs pytest-benchmark: pip install 'fasthooks[[]bench]'")


def test_without_tensorflow(pytester):
    pytester.makepyfile("""
        import fasthooks

        def test_plain():
            assert fasthooks.__version__ and not hasattr(fasthooks, "nothing")

        def test_cost(hook_cost):
            hook_cost(object)
    """)
    result = run_without(pytester, "tensorflow", "-W", "error")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("E*ImportError: fasthooks needs TensorFlow 2.15 to 2.22: pip install 'fasthooks[[]cpu]' or *")


@pytest.mark.parametrize("option", ["--version", "--collect-only", "--fixtures"])
def test_pytest_imports_the_plugin_but_not_tensorflow(pytester, option):
    pytester.makepyfile("def test_plain(): pass")
    program = f"""
        import sys, pytest
        pytest.main([{option!r}, "-p", "no:xdist"])
        print("IMPORTED", [name in sys.modules for name in ("fasthooks.pytest_plugin", "fasthooks.hook_cost", "tensorflow")])
    """
    result = pytester.run(sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines()))
    # Whether --version gets as far as to load plugins depends on pytest's own.
    result.stdout.fnmatch_lines("IMPORTED [[]*, False, False]" if option == "--version" else "IMPORTED [[]True, False, False]")


def test_a_package_imported_before_pytest_gives_no_warning(pytester):
    pytester.makepyfile("def test_plain(): pass")
    program = "import fasthooks, pytest, sys; sys.exit(pytest.main(['-p', 'no:xdist', '-W', 'error']))"
    result = pytester.run(sys.executable, "-c", program)
    result.assert_outcomes(passed=1, warnings=0)
