"""Why a step goes TensorFlow's own way: the words that reports count, one for each cause.

What a fetch or a feed key is declined for is said where it is looked at, with its type: `_structure`, `_feed`.
"""

from typing import Any

CODE_UNKNOWN = "this TensorFlow's code for the step is not known to fasthooks"
SESSION_KIND = "the raw session is of a kind of its own, or is wrapped"
SESSION_PATCHED = "a method of the raw session or of its class was replaced"
SESSION_REPLACED = "a hook put another raw session in the place of the step's"
CHAIN_PATCHED = "a method of the monitored session was replaced"
FOREIGN_HOOKED = "the hooked session is of a kind of its own, or a method of it was replaced"
HOOKS_LIST = "the hooks are in no list or tuple"
EQUAL_HOOKS = "a hook defines __eq__ or __hash__, so TensorFlow may let two of them share a request"
REPEATED_HOOK = "a hook is listed twice"
HOOKS_CHANGED = "another thread changed the hooks while they were looked at"
NO_FETCHES = "None is fetched"
ODD_OPTIONS = "options or run_metadata are of another type than RunOptions and RunMetadata"
DEBUGGER = "the options ask for TensorFlow's debugger"
UNRECOGNISABLE = "fetches or feeds are of types that cannot be recognised again"
FED_VALUE = "a fed value needs Session.run's own conversion or error"


def feed_dict_type(feed_dict: Any) -> str:
    """Returns the words for a feed dict that is none."""
    return f"feed_dict has the type {type(feed_dict).__name__}"
