"""What a user sees of the package: names, documentation, imports, versions, stubs."""

import ast
import importlib
import importlib.metadata
import inspect
import pathlib
import re
import subprocess
import sys
import textwrap

import apart
import pytest
import tensorflow as tf

import fasthooks as fh
from fasthooks import types
from fasthooks.step import _chain

PACKAGE = pathlib.Path(fh.__file__).resolve().parent
COMPILED = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("_*.pyx"))
# The contract's list: TensorFlow's names, and one of ours.
TENSORFLOWS = [
    "SessionRunHook",
    "SessionRunArgs",
    "SessionRunContext",
    "SessionRunValues",
    "MonitoredSession",
    "MonitoredTrainingSession",
    "SingularMonitoredSession",
    "Scaffold",
    "SessionCreator",
    "ChiefSessionCreator",
    "WorkerSessionCreator",
    "StopAtStepHook",
    "StepCounterHook",
    "LoggingTensorHook",
    "CheckpointSaverHook",
    "CheckpointSaverListener",
    "SummarySaverHook",
    "NanTensorHook",
    "NanLossDuringTrainingError",
    "GlobalStepWaiterHook",
    "FinalOpsHook",
    "FeedFnHook",
    "ProfilerHook",
    "SecondOrStepTimer",
]
OURS = [name for name in TENSORFLOWS if getattr(fh, name, None) is not getattr(tf.compat.v1.train, name)] + [
    "AsyncCheckpointSaverHook",
    "WandbHook",
]
# Arguments beyond TensorFlow's.
EXTRA = {
    "AsyncCheckpointSaverHook": {"save_on_error", "when_busy"},
    "CheckpointSaverHook": {"save_on_error"},
    "FeedFnHook": {"prefetch"},
    "MonitoredSession": {"scheduling", "colocate_global_step_read"},
    "MonitoredTrainingSession": {"scheduling", "colocate_global_step_read", "async_checkpoint"},
    "SingularMonitoredSession": {"scheduling", "colocate_global_step_read"},
    "SummarySaverHook": {"save_at_end"},
}


# What users are given, or derive from.
NOT_CALLED = {"HookCost", "HookCostFixture", "Profile", "Sink", *(name for name in fh.__all__ if hasattr(types, name))}


def run_python(program):
    """Runs a program in a fresh interpreter; returns the finished process."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)


def test_all_has_the_contracts_names():
    assert set(fh.__all__) >= {*TENSORFLOWS, "WandbHook"}
    assert list(fh.__all__) == sorted(set(fh.__all__))
    assert all(hasattr(fh, name) for name in fh.__all__)


def test_no_public_name_is_missing_from_all():
    public = {name for name, value in vars(fh).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(fh.__all__)


def test_the_stub_has_the_public_names():
    stub = ast.parse(pathlib.Path(fh.__file__).with_suffix(".pyi").read_text())
    imported = [alias.asname or alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    (names,) = [ast.literal_eval(node.value) for node in stub.body
                if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    assert names == list(fh.__all__) and set(names) <= set(imported)


@pytest.mark.parametrize("name", TENSORFLOWS)
def test_names_stand_for_tensorflows(name):
    ours, stock = getattr(fh, name), getattr(tf.compat.v1.train, name)
    assert ours.__name__ == name
    if isinstance(stock, type):
        assert issubclass(ours, stock)


@pytest.mark.parametrize("name", OURS)
def test_arguments_are_tensorflows(name):
    if name == "WandbHook":
        from wandb.integration.tensorflow import WandbHook as stock
    else:
        stock = getattr(tf.compat.v1.train, name.removeprefix("Async"))
    ours = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(getattr(fh, name)).parameters.values()
    ]
    theirs = list(inspect.signature(stock).parameters.values())
    # What is ours alone can only be given by name.
    assert [one for one in ours if one.kind is not inspect.Parameter.KEYWORD_ONLY] == theirs
    extra = {one.name for one in ours} - {one.name for one in theirs}
    assert extra == EXTRA.get(name, set())


@pytest.mark.parametrize("name", [name for name in fh.__all__
                                  if getattr(fh, name).__module__.startswith("fasthooks.") and name not in NOT_CALLED])
def test_docstrings(name):
    documented = getattr(fh, name)
    text = documented.__doc__
    assert re.match(r"\S.*\.(\n|$)| *\S.*; see `", text), text
    for parameter in set(inspect.signature(documented).parameters) - {"args", "kwargs"}:
        assert re.search(rf"\b{parameter}\b", text) or "are those of `tf.compat.v1.train" in text, parameter
    if inspect.isclass(documented):
        assert "Args:" in text
    assert text != getattr(getattr(tf.compat.v1.train, name, None), "__doc__", None)


@pytest.mark.parametrize("name", ["run", "run_without_hooks", "should_stop", "raw_session", "report", "recoveries"])
def test_docstrings_of_session_methods(name):
    found = inspect.getattr_static(fh.MonitoredSession, name)
    assert inspect.getdoc(found)


def test_version_is_that_of_the_metadata():
    assert fh.__version__ == importlib.metadata.version("fasthooks")
    assert re.fullmatch(r"\d+\.\d+\.\d+", fh.__version__)


@pytest.mark.parametrize(("cls", "name"), [
    (fh.MonitoredSession, "run"), (fh.MonitoredSession, "run_without_hooks"), (fh.MonitoredSession, "should_stop"),
    (fh.SecondOrStepTimer, "should_trigger_for_step"), (_chain.HookedSession, "run"), (_chain.HookedSession, "close")])
def test_methods_that_tensorflow_has_are_bound_as_its_own(cls, name):
    made = cls.__new__(cls)
    assert inspect.ismethod(getattr(made, name)) and getattr(made, name).__self__ is made
    assert next(iter(inspect.signature(getattr(cls, name)).parameters.values())).kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def test_methods_of_compiled_classes_refuse_other_objects():
    """Called from the class with anything: an error, and no end of the interpreter."""
    program = """if True:
        import importlib, pkgutil
        import fasthooks, tensorflow
        called = refused = 0
        for found in pkgutil.walk_packages(fasthooks.__path__, "fasthooks."):
            if not found.name.rpartition(".")[2].startswith("_") or found.name.endswith("__main__"):
                continue
            for cls in vars(importlib.import_module(found.name)).values():
                if not isinstance(cls, type) or cls.__module__ != found.name or cls.__flags__ & 1 << 9:  # classes in Python
                    continue
                kinds = ("method_descriptor", "cython_function_or_method")
                for method in [one for one in vars(cls).values() if type(one).__name__ in kinds]:
                    for arguments in ([], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]):
                        for other in (None, object()):
                            try:
                                method(other, *arguments)
                            except TypeError:
                                refused += 1
                            called += 1
        print(called > 100, called == refused)
        """
    done = apart.run(program, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


@pytest.mark.parametrize("use", ["fasthooks.MonitoredSession", "fasthooks.session", "from fasthooks import hook_cost"])
def test_without_tensorflow_one_line_says_what_to_install(use):
    done = run_python(f"""
        import sys
        sys.modules["tensorflow"] = None
        import fasthooks
        print(fasthooks.__version__, hasattr(fasthooks, "nothing"), "MonitoredSession" in dir(fasthooks))
        {use}
    """)
    assert (done.returncode, done.stdout) == (1, f"{fh.__version__} False True\n")
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: fasthooks needs TensorFlow 2.15 to 2.22: pip install 'fasthooks[cpu]' or 'fasthooks[gpu]'"
    )


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_command_line_without_tensorflow(tmp_path, option):
    # The standard library, and a directory with this package alone.
    (tmp_path / "fasthooks").symlink_to(PACKAGE)
    (tmp_path / "fasthooks-7.8.9.dist-info").mkdir()
    (tmp_path / "fasthooks-7.8.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fasthooks\nVersion: 7.8.9\n")
    program = "import sys; sys.path.append(sys.argv.pop()); from fasthooks.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, option, str(tmp_path)], capture_output=True, text=True,
                          timeout=60, env={"COLUMNS": "300"})
    assert (done.returncode, done.stderr) == (0, "")
    if option == "--version":
        assert done.stdout.startswith("fasthooks 7.8.9, no TensorFlow, Python 3.")
    else:
        assert "fasthooks needs TensorFlow 2.15 to 2.22: pip install 'fasthooks[cpu]' or 'fasthooks[gpu]'." in done.stdout


def test_versions_for_a_report_of_a_bug():
    done = subprocess.run([sys.executable, "-m", "fasthooks", "--version"], capture_output=True, text=True, timeout=60)
    told = rf"fasthooks {re.escape(fh.__version__)}, .*tensorflow\S* {re.escape(tf.__version__)}, Python \S+, \S+\n"
    assert (done.returncode, done.stderr) == (0, "") and re.fullmatch(told, done.stdout)


def test_a_broken_tensorflow_is_not_taken_for_a_missing_one(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import something_that_is_not_there\n")
    done = run_python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import fasthooks
        fasthooks.MonitoredSession
    """)
    assert done.stderr.strip().splitlines()[-1] == "ModuleNotFoundError: No module named 'something_that_is_not_there'"


def test_import_brings_no_optional_package():
    done = run_python("""
        import sys
        import tensorflow
        before = set(sys.modules)
        import fasthooks
        for name in fasthooks.__all__:
            getattr(fasthooks, name)
        added = {name.partition(".")[0] for name in set(sys.modules) - before}
        tools = {"pytest", "hypothesis", "Cython", "psutil"}
        print(sorted(added & (tools | {"wandb", "sklearn", "rich", "tqdm", "tensorflow_estimator"})))
    """)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# Stubs


def definitions(nodes):
    """Returns the names that the statements of a stub define, each with its node."""
    found = {}
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
    return found


def runtime_names(module):
    """Returns what a compiled module itself defines under a public name."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def attributes(cls):
    """Returns the attributes of a compiled class, but for those that every object has."""
    inherited = {name for base in cls.__mro__[1:] for name in vars(base)} | {
        "__doc__",
        "__module__",
        "__new__",
        "__pyx_vtable__",
    }
    specials = {"__init__", "__reduce_ex__", "__setstate__"}
    return {
        name
        for name in vars(cls)
        if name in specials
        or (name not in inherited and (not name.startswith("__")) and (name not in {"__dict__", "__weakref__"}))
    }


def test_every_compiled_module_has_its_files():
    assert COMPILED
    for name in COMPILED:
        assert (PACKAGE / f"{name}.pxd").exists()
        assert (PACKAGE / f"{name}.pyi").exists()


@pytest.mark.parametrize("name", COMPILED)
def test_stub_tells_what_the_module_has(name):
    module = importlib.import_module(f"fasthooks.{name}".replace("/", "."))
    found = definitions(ast.parse((PACKAGE / f"{name}.pyi").read_text()).body)
    # Constants do not say whose they are.
    stub = {key: node for key, node in found.items() if not isinstance(node, ast.AnnAssign)}
    runtime = runtime_names(module)
    assert set(stub) == set(runtime)
    for key, node in stub.items():
        if isinstance(node, ast.ClassDef):
            cls = runtime[key]
            assert [ast.unparse(base).rpartition(".")[2] for base in node.bases] == [
                base.__name__ for base in cls.__bases__ if base is not object
            ]
            declared = definitions(node.body)
            assert all(hasattr(cls, one) or isinstance(declared[one], ast.AnnAssign) for one in declared), key
            assert attributes(cls) - set(declared) == set(), key
            functions = {
                one: declared[one]
                for one in declared
                if isinstance(declared[one], ast.FunctionDef)
                and not declared[one].decorator_list
                and not one.startswith("__")
            }
            for one, function in functions.items():
                assert argument_names(function) == list(inspect.signature(getattr(cls, one)).parameters), (key, one)
        else:
            assert argument_names(node) == list(inspect.signature(runtime[key]).parameters), key


def argument_names(function):
    """Returns the names of a stub function's arguments in order."""
    args = function.args
    return [
        one.arg
        for one in [
            *args.posonlyargs,
            *args.args,
            *filter(None, [args.vararg]),
            *args.kwonlyargs,
            *filter(None, [args.kwarg]),
        ]
    ]
