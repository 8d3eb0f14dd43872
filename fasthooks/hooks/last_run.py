"""A run after the last step, of what one hook asks for: what it needs, and whether one worker can make it alone."""

from collections.abc import Collection, Iterator
from typing import Any

from tensorflow.python.client import session as session_lib
from tensorflow.python.framework import errors
from tensorflow.python.util import nest

# Ops that wait for the same op of other workers, which need not run at the same time.
_COLLECTIVES = ("Collective", "Nccl", "Horovod")


def elements(graph: Any, fetches: Any) -> list[Any]:
    """Returns the tensors and operations that fetches of any structure stand for, names and variables among them.

    Raises:
      TypeError: A fetch is of a type that cannot be fetched.
      ValueError: There is nothing in the graph by that name.
    """
    handler = session_lib._FetchHandler(graph, fetches, {})
    return [*handler.fetches(), *handler.targets()]


def ancestors(wanted: Any, fed: Collection[Any] = ()) -> Iterator[Any]:
    """Yields the ops that a run of these tensors and operations needs; `fed`: names of the tensors that are fed."""
    waiting, seen = list(wanted), set()
    while waiting:
        element = waiting.pop()
        op = getattr(element, "op", element)
        if element.name in fed or op in seen:
            continue
        seen.add(op)
        yield op
        waiting.extend([*op.inputs, *op.control_inputs])


def is_collective(op: Any) -> bool:
    """Returns whether an op waits for other workers."""
    return op.type.startswith(_COLLECTIVES)


def attempt(session: Any, fetches: Any, feed_dict: Any = None, options: Any = None,
            run_metadata: Any = None) -> tuple[Any, str | None]:
    """Makes such a run, with the arguments of `tf.compat.v1.Session.run`.

    Returns:
      (results, None); or (None, why this is left out) if a placeholder is in the way, other workers are needed or the input is
      used up.
    """
    graph = session.graph
    fed = {graph.as_graph_element(part).name for key in feed_dict or () for part in nest.flatten(key, expand_composites=True)}
    for op in ancestors(elements(graph, fetches), fed):
        if op.type == "Placeholder":
            return None, f"it needs the placeholder {op.name}"
        if is_collective(op):
            return None, f"{op.name} needs the other workers"
    try:
        return session.run(fetches, feed_dict, options, run_metadata), None
    except errors.OutOfRangeError:
        return None, "the input is used up"
