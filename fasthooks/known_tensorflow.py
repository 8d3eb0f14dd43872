"""Which of TensorFlow's code fasthooks stands in for, and whether this TensorFlow has it so.

fasthooks was written after the classes and functions in the table below. A version does not tell whether they are still the
same: vendors and users change their TensorFlow. So their source is compared, by digest, without comments and docstrings. Where
a trigger or a guard is made, it is asked here; what it stands on and is not known is then left to TensorFlow itself.

Reading and hashing the files takes a millisecond or two, parsing them 50: files as TensorFlow released them are known as a
whole, and only others are parsed.
"""

import ast
import functools
import hashlib
import importlib
import re
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow

_OLDEST, _NEWEST = (2, 15), (2, 22)


class _Module(NamedTuple):
    files: set[str]  # digests of the whole source, one for each text that TensorFlow 2.15 to 2.22 released
    code: dict[str, set[str]]  # qualified name -> digests of the texts that were read


_MODULES = {
    "tensorflow.python.training.monitored_session": _Module(
        {"1804b1704966478b"},
        {
            "_HookedSession": {"f1895650d9faf697"},
            "_WrappedSession": {"b4b7ba950917af56"},
            "_CoordinatedSession": {"8360b1d80b9b8627"},
            "_RecoverableSession": {"8c5942f2606c7650"},
            "_MonitoredSession": {"4599d9902a5405bf"},
            "MonitoredTrainingSession": {"32fdf8e4bf50fdb4"},
        },
    ),
    "tensorflow.python.training.session_run_hook": _Module(
        {"f45d77c1dd94ad1b"},
        {
            "SessionRunHook": {"b30e26347bd0644f"},
            "SessionRunArgs": {"cd0abc7d07a90519"},
            "SessionRunContext": {"e78bc57440429030"},
            "SessionRunValues": {"a8d7cce0abf5fa9a"},
        },
    ),
    "tensorflow.python.client.session": _Module(
        {"67357f87b9a4748f", "54462a0c5b146ce0", "d3e1700433af72ca", "4dc15185761b4228"},
        {
            "BaseSession.run": {"cb72daa6ddb5add0"},
            "BaseSession._run": {"fe5590a05720ccf4", "63f1ca55023d6dbf"},
            "BaseSession._do_run": {"58b7cfde7e0d0748"},
            "BaseSession._do_call": {"8374df86f82301e7"},
            "BaseSession._extend_graph": {"3b8a606e37998ffe", "1a5e1c8615ad8900"},
            "BaseSession._call_tf_sessionrun": {"b749b13d51e6def3", "62844832d3d0a307"},
            "BaseSession._update_with_movers": {"75abfe43d7936b4b"},
            "_FetchMapper": {"e76b38df72aa97ce"},
            "_ElementFetchMapper": {"64ededf0427e5325"},
            "_ListFetchMapper": {"2b38e3584a961f08"},
            "_DictFetchMapper": {"d8d211f3e4343a20"},
            "_AttrsFetchMapper": {"4eff673bfaaa0e07"},
            "_FetchHandler": {"e243abfd5b812eb7"},
            "_uniquify_fetches": {"59fee0b4785b4e8d"},
            "_is_attrs_instance": {"33f9fffbe5ff8d30"},
            "_get_attrs_values": {"576af09a10006a29"},
        },
    ),
    "tensorflow.python.training.basic_session_run_hooks": _Module(
        {"b4e83bf4931f8f99", "f1a2405e6a34456a"},
        {
            "_HookTimer": {"b69305ac748f793f"},
            "SecondOrStepTimer": {"4f7bf39b2eff1dc4"},
            "NeverTriggerTimer": {"5e94bc8631bbc79f"},
            "StopAtStepHook": {"018914a824548f10"},
            "StepCounterHook": {"46dda0ea6419f189"},
            "LoggingTensorHook": {"d75add948d06d177"},
            "NanTensorHook": {"a3b871885e571c91"},
            "SummarySaverHook": {"0cf8caf7a7067183", "03e438655cb473a8"},
            "CheckpointSaverHook": {"28cb96b936d03bd5"},
            "GlobalStepWaiterHook": {"ae49b60c3ed58e8e"},
            "ProfilerHook": {"32ec98a690d5e095"},
        },
    ),
    "tensorflow.python.platform.tf_logging": _Module(
        {"d17d97bc8d2a67df", "ead47e9f660551ac"},
        {
            "info": {"af48e24fd4655051"},
            "get_logger": {"dcbacca006f81431"},
        },
    ),
    "tensorflow.python.training.coordinator": _Module(
        {"ef533c62dd969a4e"},
        {
            "Coordinator": {"ef57f2ccdecd3a19"},
        },
    ),
    "tensorflow.python.summary.writer.event_file_writer": _Module(
        {"8d90aaba871ede2f"},
        {
            "EventFileWriter": {"323c8710d6ec5bef"},
            "_EventLoggerThread": {"63aede5d9741cb39"},
            "CloseableQueue": {"5963e20c07a0b8b0"},
        },
    ),
    "tensorflow.python.summary.writer.writer": _Module(
        {"c44108dccfa2ffcd"},
        {
            "SummaryToEventTransformer": {"701b50c37fd04d55"},
            "FileWriter": {"231ded3afd150535"},
        },
    ),
}
_messages: set[str] = set()


class _Findings(NamedTuple):
    changed: frozenset[str]  # qualified names of what is otherwise, or not there
    unreadable: frozenset[str]  # and of what has no source


@functools.cache
def _findings() -> _Findings:
    changed: set[str] = set()
    unreadable: set[str] = set()
    for module, known in _MODULES.items():
        source = _source(module)
        if source is None:
            unreadable.update(known.code)
        elif _digest(source) not in known.files:
            try:
                found = digests(source, known.code)
            except Exception:  # it was changed after it was imported, or is too deep for a parser in Python
                unreadable.update(known.code)
                continue
            changed.update(name for name, accepted in known.code.items() if found.get(name) not in accepted)
    return _Findings(frozenset(changed), frozenset(unreadable))


def unknown() -> frozenset[str]:
    """Returns the qualified names, such as "BaseSession.run", of what this TensorFlow has otherwise, or not at all."""
    return frozenset().union(*_findings())


def is_known(*code: Any) -> bool:
    """Returns whether classes, their bases included, and functions are what fasthooks was written after.

    What TensorFlow's modules of the table define and the table does not name is not known; all else is no concern of
    this module, and counts as known.
    """
    return all(_is_known(part) for one in code for part in (one.__mro__ if isinstance(one, type) else (one,)))


def _is_known(code):
    # None: what somebody looked for and did not find.
    return code is not None and is_name_known(code.__module__, code.__qualname__)


def is_name_known(module: str, name: str) -> bool:
    """Returns what `is_known` does, of what a module has under a qualified name in its source."""
    known = _MODULES.get(module)
    if known is None:
        return True
    # A method is part of its class, and the table has either.
    while name and name not in known.code:
        name = name.rpartition(".")[0]
    return name != "" and name not in unknown()


def refuse_old() -> None:
    """Raises ImportError if this TensorFlow is too old, before anything else fails for it."""
    version = _version()
    if _release(version) < _OLDEST:
        raise ImportError(f"fasthooks needs TensorFlow 2.15 to 2.22, and this is {version}: pip install --upgrade "
                          "'tensorflow>=2.15,<2.23', or tensorflow-cpu if you have that.")


def check() -> None:
    """Is called when a public name is first used.

    Raises:
      ImportError: This TensorFlow is too old.

    Warns:
      RuntimeWarning: Some of its code is not known.
    """
    refuse_old()
    _warn(_finding())


def check_version() -> None:
    """Is called by `patch`; as `check`, and warns too where nothing has changed but the version is not a tested one."""
    version = _version()
    _warn(_finding() or ("what fasthooks replaces has not changed" if not is_tested(version) else ""))


def is_tested(version: str) -> bool:
    """Returns whether a TensorFlow version, such as "2.21.0", is one that fasthooks is tested with."""
    return _OLDEST <= _release(version) <= _NEWEST


def _version():
    return str(getattr(tensorflow, "__version__", ""))


def _release(version):
    # Vendors add what they like behind these two. Without them, nothing is known of its age.
    numbers = re.match(r"v?(\d+)\.(\d+)(?!\d)", version)
    return tuple(int(number) for number in numbers.groups()) if numbers else (float("inf"),)


def _finding():
    changed, unreadable = _findings()
    parts = []
    if changed:
        parts.append(f"it has changed {', '.join(sorted(changed))}")
    if unreadable:
        parts.append(f"it has no source files by which {', '.join(sorted(unreadable))} could be verified")
    advice = "; what stands on that is left to TensorFlow, at its speed. Releases of TensorFlow 2.15 to 2.22 have none of this"
    return " and ".join(parts) + advice if parts else ""


def _warn(finding):
    message = f"fasthooks is not tested with TensorFlow {_version()} as it is here: {finding}."
    if finding and message not in _messages:
        # Where warnings are errors, it is not said before it is heeded.
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        _messages.add(message)


def _source(module):
    # What the module was loaded from, wherever that is; None: compiled files alone.
    try:
        loader: Any = importlib.import_module(module).__loader__
        source = loader.get_source(module)
    except Exception:  # loaders are anybody's
        return None
    return source if isinstance(source, str) else None


def digests(source: str, names: Collection[str]) -> dict[str, str]:
    """Returns the digests of classes, functions and methods that a module's source has, by qualified name."""
    definitions = dict(_definitions(ast.parse(source).body, ""))
    return {name: _digest(ascii(_content(definitions[name]))) for name in names if name in definitions}


def _definitions(body, prefix):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}{node.name}.")


def _content(node):
    # The same under every version of Python: newer ones have more fields, which are empty here.
    if isinstance(node, list):
        return [_content(one) for one in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    return type(node).__name__, [(name, _content(value)) for name, value in fields.items() if value not in (None, [])]


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]
