"""What a hook does right before its session is closed, however that comes."""

from collections.abc import Callable
from typing import Any


class Closing:
    """Is asked right before a raw session is closed, in TensorFlow's monitored sessions and in ours.

    TensorFlow tells hooks of a normal end only. But before the raw session is closed, for whatever reason, its
    coordinator is joined, on the thread that closes, and asks each registered thread whether it still runs. This object
    stands among those threads.

    Args:
      coord: The coordinator; None, where somebody calls the hook by hand: nobody asks.
      act: Called without arguments, once.
    """

    name = "fasthooks-closing"

    def __init__(self, coord: Any, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act
        if coord is not None:
            coord.register_thread(self)

    def is_alive(self) -> bool:
        act, self._act = self._act, None
        if act is not None:
            act()
        return False
