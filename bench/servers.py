"""The budget of sessions on servers: B7."""

import contextlib
import dataclasses
import functools

from bench import common, steps, workers
from bench.table import progress, row

LOW_END = 0.97  # no array is so large that its step is slower than this


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the sessions of two lanes are, and what is asked of ours there.

    Attributes:
      name: for the table.
      masters: the peer's target and ours.
      bar: how many times the peer's speed is the least.
      within: makes `build` a function that builds the same graph where it belongs.
      far: the device that arrays come from, and go to; empty: any.
    """

    name: str
    masters: tuple
    bar: float
    within: object = staticmethod(lambda build: build)
    far: str = ""


@contextlib.contextmanager
def places():
    """A server in this process, one in a process of its own, and two parameter servers with the chief in this process."""
    own = [common.tf.distribute.Server.create_local_server().target for _ in range(2)]  # the lanes' variables are apart
    with (
        workers.listening("server") as one,
        workers.listening("server") as other,
        workers.parameter_servers(2) as (cluster, target),
    ):
        yield (
            Place("a server in this process, which no network lies before", tuple(own), 1.8),
            Place("a server in a process of its own", (one(), other()), 1.4),
            Place("two parameter servers", (target, target), 1.1,
                  lambda build: functools.partial(common.on_parameter_servers, build, cluster), "/job:ps/task:1"),
        )


def three_hooks(impl, model, directory):
    """What short programs list: when to stop, how fast it goes, and that the loss is a number."""
    train = impl.train
    return [train.StopAtStepHook(last_step=common.FAR_STEP), train.NanTensorHook(model.loss),
            train.StepCounterHook(every_n_steps=common.PERIOD, output_dir=directory)]


HOOKS = {0: common.no_hooks, 3: three_hooks, 8: common.hooks_h8}


def _and_python(hooks):
    return lambda impl, model, directory: [*hooks(impl, model, directory), steps.TrivialHook()]


def b7(peer, ours, settings):
    """Sessions on servers: 0, 3 and 8 hooks, with and without one in plain Python; large arrays in and out."""
    rows = []
    with places() as found:
        for place in found:
            progress(f"  {place.name}")
            compare = functools.partial(steps.compare, peer, ours, settings, masters=place.masters)
            tiny = place.within(common.tiny)
            for count in settings.server_hooks:
                for python in (False, True):
                    hooks = _and_python(HOOKS[count]) if python else HOOKS[count]
                    theirs, mine = compare(tiny, hooks, settings.server_steps, wandb=count == 8, warm_up=settings.server_warm_up)
                    what = f"tiny graph on {place.name}, {count} hooks{' and one in Python' if python else ''}"
                    rows.append(row("B7", what, theirs, mine, theirs / mine, place.bar))
            for megabytes in settings.server_megabytes:
                build = place.within(functools.partial(common.exchanged, megabytes, place.far))
                theirs, mine = compare(build, three_hooks, settings.server_array_steps, warm_up=settings.server_array_steps)
                what = f"{megabytes:g} MB fed and fetched on {place.name}, 3 hooks"
                rows.append(row("B7", what, theirs, mine, theirs / mine, LOW_END))
        theirs, mine = compare(tiny, common.hooks_h8, settings.server_steps, warm_up=settings.server_warm_up,
                               colocate_global_step_read=True)
        what = f"tiny graph on {place.name}, 8 hooks, our read of the step beside the step"
        rows.append(row("B7", what, theirs, mine, theirs / mine, place.bar))
    return {"rows": rows}
