"""The clock of profiles: intervals are the kernel's, whichever of its two sources it has."""

import pathlib
import platform
import sys
import time

import apart
import pytest

import fasthooks
from fasthooks.step import _clock

SOURCE = pathlib.Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
COUNTED = sys.platform == "linux" and platform.machine() == "x86_64" and SOURCE.exists() and SOURCE.read_text().strip() == "tsc"


def between():
    """A reading, and the kernel's clock before and after it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC), _clock.clock(), time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def test_intervals_are_the_kernels():
    with fasthooks.profile():
        pass
    assert _clock.use_counter() == COUNTED
    for secs in (0.01, 0.3):
        before = between()
        time.sleep(secs)
        after = between()
        passed = after[1] - before[1]
        assert (after[0] - before[2]) * 0.999 <= passed <= (after[2] - before[0]) * 1.001
        assert passed >= secs * 0.999e9


def test_it_goes_forward():
    times = [_clock.clock() for _ in range(100_000)]
    assert times == sorted(times) and times[-1] > times[0]


@pytest.mark.parametrize("source", ["hpet\n", None])
def test_a_counter_that_the_kernel_does_not_trust_is_not_read(tmp_path, source):
    path = tmp_path / "source"
    if source is not None:
        path.write_text(source)
    done = apart.run("""
import sys, time
from fasthooks.step import _clock
def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
for _ in range(2):
    times = [now(), _clock.clock(), now(), _clock.clock(), now()]
    print(times == sorted(times))
    print(_clock.use_counter(sys.argv[1]))
""", path, timeout=60)
    assert (done.stdout, done.returncode) == ("True\nFalse\n" * 2, 0), done.stderr


@pytest.mark.skipif(not COUNTED, reason="the kernel does not tell the time by the counter of an x86 processor")
def test_a_child_of_a_fork_goes_on_with_it(tmp_path):
    path = tmp_path / "source"
    path.write_text("tsc\n")
    done = apart.run("""
import os, sys, time
from fasthooks.step import _clock
print(_clock.use_counter(sys.argv[1]), _clock.use_counter("none"), flush=True)
begin = _clock.clock()
if os.fork() == 0:
    time.sleep(0.05)
    print(50 <= (_clock.clock() - begin) / 1e6 < 30_000, flush=True)
    os._exit(0)
os.wait()
""", path, timeout=60)
    assert (done.stdout, done.returncode) == ("True True\nTrue\n", 0), done.stderr
