"""What a debug build counts."""

import gc

from fasthooks.step import _live
from fasthooks.step._slot import Slot


class Kind(_live.Counted):
    pass


def test_counts_what_lives():
    gc.collect()
    before = _live.counts()
    objects = [Kind(), Kind(), Slot(None)]
    found = {"Kind": 2, "Slot": before.get("Slot", 0) + 1} if _live.is_debug_build() else {}
    assert _live.counts() == {**before, **found}
    del objects[1:]
    assert _live.counts() == {**before, **({"Kind": 1} if found else {})}
    objects.clear()
    assert _live.counts() == before


def test_what_no_constructor_made_is_not_counted():
    before = _live.counts()
    for arguments in ((), (1, 2, 3)):
        try:
            Slot(*arguments)
        except TypeError:
            pass
    assert _live.counts() == before
