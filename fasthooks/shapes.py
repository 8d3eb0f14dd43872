"""Is an untested TensorFlow's code the code that fasthooks stands in for?

fasthooks was written after the classes and functions below, as TensorFlow 2.15 to 2.21 have them. Of another version
this module tells which of them have changed: by a digest of their source without comments and docstrings, normalized
by `ast`, so that it is the same under every Python version.
"""

import ast
import hashlib
import inspect
import sys
import textwrap

_FIRST, _LAST = (2, 15), (2, 21)
_SESSION = "tensorflow.python.client.session"
_MONITORED = "tensorflow.python.training.monitored_session"
_STOCK = "tensorflow.python.training.basic_session_run_hooks"
_HOOK = "tensorflow.python.training.session_run_hook"

# Module -> qualified name -> digests of the versions that were read.
_STEP = {
    _MONITORED: {"_HookedSession": {"619854b8f1788d48"}, "_WrappedSession": {"6f7e3df160629b39"}},
    _HOOK: {
        "SessionRunHook": {"8b8f842dbfb35970"},
        "SessionRunArgs": {"2257bc61808b839a"},
        "SessionRunContext": {"740aab0fd34fe34a"},
        "SessionRunValues": {"6d06e4dd413b3b34"},
    },
    _SESSION: {
        "BaseSession.run": {"1605bc444e2679dd"},
        "BaseSession._run": {"d6440a97e158aee0", "1fde802983b78e69"},  # NumPy 2's conversion of feeds since 2.16
        "BaseSession._do_run": {"30a2622559368a59"},
        "BaseSession._do_call": {"fc04e1871114a2bf"},
        "BaseSession._make_callable_from_options": {"d2812940d45b4e5a"},
        "_FetchMapper": {"7b65c365bcbeeb26"},
        "_ElementFetchMapper": {"1e0bdb702801a553"},
        "_ListFetchMapper": {"7eb2d9ea93150011"},
        "_DictFetchMapper": {"d690071aeee047fd"},
        "_AttrsFetchMapper": {"9470aba9a2ef1231"},
        "_FetchHandler": {"b754ef04a70b3bd0"},
    },
    _STOCK: {
        "_HookTimer": {"b0ebebbf540bc3bf"},
        "SecondOrStepTimer": {"bc2ae508b27aad45"},
        "NeverTriggerTimer": {"2aeba81875306949"},
    },
}
_STOCK_HOOKS = {
    _STOCK: {
        "StopAtStepHook": {"783b9c62d3e00ce5"},
        "StepCounterHook": {"4312b050f41540a6"},
        "LoggingTensorHook": {"f3703c4db58841d5"},
        "NanTensorHook": {"a4b51738091d8205"},
        "SummarySaverHook": {"0535b4f71e6bee7a"},
        "CheckpointSaverHook": {"87253d7b7273bfaf"},
        "GlobalStepWaiterHook": {"d947f0e4d0b8ad8b"},
        "ProfilerHook": {"ab0b89e4e13fd4c5"},
    },
}
# The names among those of `changed` that cost only the triggers of these hooks.
HOOKS = frozenset(_STOCK_HOOKS[_STOCK])


def is_tested(version: str) -> bool:
    """Returns whether a TensorFlow version, such as "2.21.0", is one that fasthooks is tested with."""
    try:
        major, minor = (int(number) for number in version.split(".")[:2])
    except ValueError:
        return False
    return _FIRST <= (major, minor) <= _LAST


def changed() -> set[str]:
    """Returns the qualified names of what this TensorFlow has otherwise, or not at all."""
    return {
        name
        for table in (_STEP, _STOCK_HOOKS)
        for module, names in table.items()
        for name, digests in names.items()
        if _digest(sys.modules.get(module), name) not in digests
    }


def _digest(module, qualified_name):
    found = module
    for name in qualified_name.split("."):
        found = getattr(found, name, None)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
    except (OSError, TypeError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]
