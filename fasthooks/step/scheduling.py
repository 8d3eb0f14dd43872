"""May a step run inline, in the thread that calls it?

Waking TensorFlow's inter-op pool costs more than a small step, and `RunOptions.inter_op_thread_pool = -1` avoids it. But then
a kernel that waits for another op of its step waits for ever: nobody is left to run the other op. So a plan goes inline only if
every op it would run is on a list of kernels known not to wait (`inline_hazard`), and only in a session where the option means
what it says (`session_hazard`). Unknown means no.

What was found on TensorFlow 2.15 and 2.21 and decides the cases that are not obvious:

- Dataset iterators are fine: `IteratorGetNext` runs the pipeline on threads of its own, with a runner of its own, and a
  pipeline that waits for an op of the step, or that maps in parallel, does as well as on the pool.
- `If`, `Case` and `While` with `_lower_using_switch_merge` really are lowered in a session, with Grappler and without it, at the
  top and inside called functions. Without the attribute a `While` becomes synchronous inline.
- Some asynchronous kernels run their successors from inside themselves. In a loop this overflows the stack (`NESTING_OPS`).
"""

import os
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

from tensorflow.python.framework import op_def_registry, ops

from fasthooks.step._inline_ops import LOOP_OPS, LOWERABLE_OPS, NESTING_OPS, SAFE_OPS

# Beyond this size inline is not tried: the walk takes some 7 us an op, once for a set of fetches that has run 120 times.
INLINE_MAX_OPS = 10_000

INLINE_SAFE_OPS: frozenset[str] = SAFE_OPS

# A node with one of these is compiled as a whole and never lowered.
_COMPILED_ATTRS = ("_XlaMustCompile", "_xla_compile_id", "_tpu_replicate")

_PSEUDO_DEVICES = frozenset(("XLA_CPU", "XLA_GPU"))


class _Verdict(NamedTuple):
    """What is known of one function, with all that it calls.

    Attributes:
      hazard: why it must not run inline, or None.
      n_ops: how many ops it has, those of the functions it calls included.
      loop: an op of it that makes a loop, or None.
      nesting: an op of it that runs its successors from inside itself, or None.
    """

    hazard: str | None
    n_ops: int
    loop: str | None
    nesting: str | None


# Function bodies do not change once they are in a graph, so their verdicts are kept; those of ops are not, since inputs
# and control inputs can be added to an op that was walked before.
_verdicts: "weakref.WeakKeyDictionary[ops.Graph, dict[str, _Verdict]]" = weakref.WeakKeyDictionary()

# op type -> names of its function-valued attributes, None for types that are not registered.
_function_attrs_of: dict[str, tuple[str, ...] | None] = {}


def inline_hazard(
    graph: Any, fetches: Iterable[Any], feeds: Iterable[Any] = ()
) -> tuple[str | None, int]:
    """Says why a step must not run inline, if anything does.

    Args:
      graph: the session's graph.
      fetches: operations and tensors that the step is asked for.
      feeds: tensors that are fed; what is needed only for them does not run.

    Returns:
      `(reason, n_ops)`. The reason is None if the step may run inline, else one sentence. `n_ops` counts the ops that would
      run, the bodies of functions included; with a reason it is how many had been seen when the reason was found.
    """
    # Tensor objects may be made anew on each access, the operation object is one for the life of the graph.
    fed = {(id(t.op), t.value_index) for t in feeds}
    walk = _Walk(_Library(graph))
    pending: list[ops.Operation] = []
    for fetch in fetches:
        if isinstance(fetch, ops.Operation):
            pending.append(fetch)
        elif (id(fetch.op), fetch.value_index) not in fed:
            pending.append(fetch.op)

    seen = set(map(id, pending))
    while pending:
        op = pending.pop()
        op_type = op.type
        if op_type in _PLAIN_OPS:
            walk.n_ops += 1
        else:
            walk.visit(op.name, op_type, op)
        if walk.n_ops > INLINE_MAX_OPS and walk.hazard is None:
            walk.hazard = f"the step has more than {INLINE_MAX_OPS} ops"
        if walk.hazard is not None:
            return walk.hazard, walk.n_ops
        for tensor in op.inputs:
            source = tensor.op
            key = id(source)
            if key not in seen and not (fed and (key, tensor.value_index) in fed):
                seen.add(key)
                pending.append(source)
        for source in op.control_inputs:
            key = id(source)
            if key not in seen:
                seen.add(key)
                pending.append(source)
    return walk.verdict().hazard, walk.n_ops


def session_hazard(session: Any) -> str | None:
    """Says why inline scheduling is not for this session, if anything does.

    Args:
      session: a `tf.compat.v1.Session`.

    Returns:
      None if the session is local, has one device, and nobody chose how its ops are scheduled; else one sentence.
    """
    target = session._target  # pylint: disable=protected-access
    if target not in (None, "", b"", "local", b"local"):
        return f"the session runs on {target!r}, not in this process"
    config = session._config  # pylint: disable=protected-access
    if config is not None:
        reason = _config_hazard(config)
        if reason is not None:
            return reason
    if "TF_NUM_INTEROP_THREADS" in os.environ:
        return "the environment variable TF_NUM_INTEROP_THREADS sets the inter-op threads"
    # Last, since it is the only check that asks the runtime.
    devices = [d.name for d in session.list_devices() if d.device_type not in _PSEUDO_DEVICES]
    if len(devices) != 1:
        # A step on several devices is several partitions, for which TensorFlow ignores the option without a word.
        return f"the session has {len(devices)} devices"
    return None


def _config_hazard(config: Any) -> str | None:
    """Says which field of a ConfigProto speaks against inline scheduling."""
    if config.session_inter_op_thread_pool:
        return "the session's config sets session_inter_op_thread_pool"
    if config.use_per_session_threads:
        return "the session's config sets use_per_session_threads"
    if config.inter_op_parallelism_threads:
        return f"the session's config sets inter_op_parallelism_threads to {config.inter_op_parallelism_threads}"
    if config.operation_timeout_in_ms:
        # The timeout cannot interrupt the thread that runs the kernels.
        return f"the session's config sets operation_timeout_in_ms to {config.operation_timeout_in_ms}"
    if config.experimental.executor_type:
        return f"the session's config sets executor_type to {config.experimental.executor_type!r}"
    if config.experimental.disable_functional_ops_lowering:
        return "the session's config sets disable_functional_ops_lowering"
    if config.graph_options.optimizer_options.global_jit_level > 0:
        # XLA replaces parts of the graph by ops that nobody can see from here.
        return "the session's config turns XLA on"
    return None


class _Library:
    """The functions of one graph: bodies, and what is known of them."""

    def __init__(self, graph: ops.Graph):
        """Opens the library.

        Args:
          graph: the graph whose functions are meant.
        """
        self._graph = graph
        self._active: set[str] = set()
        self._all: dict[str, Any] | None = None
        verdicts = _verdicts.get(graph)
        if verdicts is None:
            verdicts = _verdicts[graph] = {}
        self._verdicts = verdicts

    def body(self, name: str) -> Any:
        """Returns the FunctionDef of that name, None if the graph has none."""
        # The table that the graph keeps in Python answers without serialising the graph, for all but odd imports.
        function = getattr(self._graph, "_functions", {}).get(name)
        for attribute in ("cached_definition", "definition"):
            body = getattr(function, attribute, None)
            if body is not None and hasattr(body, "node_def"):
                return body
        if self._all is None:
            self._all = {f.signature.name: f for f in self._graph.as_graph_def().library.function}
        return self._all.get(name)

    def judge(self, name: str) -> _Verdict:
        """Returns the verdict on the function of that name."""
        verdict = self._verdicts.get(name)
        if verdict is not None:
            return verdict
        if name in self._active:
            # How deep it goes depends on the data, and inline every level is on the caller's stack.
            return _Verdict(f"function '{name}' calls itself", 0, None, None)
        body = self.body(name)
        if body is None:
            return _Verdict(f"function '{name}' is not in the graph", 0, None, None)
        walk = _Walk(self)
        self._active.add(name)
        try:
            if _is_compiled(body.attr):
                walk.hazard = f"function '{name}' is compiled by XLA"
            # All of the body: what pruning may drop is not worth the second set of rules.
            for node in body.node_def:
                if walk.hazard is not None:
                    break
                walk.visit(node.name, node.op, node)
        finally:
            self._active.discard(name)
        verdict = walk.verdict()
        # What was found wrong while a caller was still open may be that caller's recursion, or a function that comes later.
        if verdict.hazard is None:
            self._verdicts[name] = verdict
        return verdict


class _Walk:
    """The state of one walk over the ops of a graph or of a function's body.

    Attributes:
      n_ops: the ops seen so far, the bodies of functions included.
      hazard: the first reason found against running inline, or None.
    """

    def __init__(self, library: _Library):
        """Starts with nothing seen.

        Args:
          library: the functions that the ops may call.
        """
        self._library = library
        self._loop: str | None = None
        self._nesting: str | None = None
        self.n_ops = 0
        self.hazard: str | None = None

    def visit(self, name: str, op_type: str, node: Any) -> None:
        """Takes one op into account.

        Args:
          name: the op's name.
          op_type: its type.
          node: the `tf.Operation`, or the NodeDef in a function's body.
        """
        self.n_ops += 1
        if op_type in LOOP_OPS:
            self._loop = self._loop or f"'{name}' ({op_type})"
        if op_type in NESTING_OPS:
            self._nesting = self._nesting or f"'{name}' ({op_type})"
        lowered = op_type in LOWERABLE_OPS
        if not lowered and op_type not in INLINE_SAFE_OPS:
            self._visit_unlisted(name, op_type)
            return
        names = _function_attrs(op_type)
        if not names:
            return
        attrs = node.node_def.attr if isinstance(node, ops.Operation) else node.attr
        if _is_compiled(attrs):
            self.hazard = f"op '{name}' ({op_type}) is compiled by XLA"
            return
        # Tested with `in` first: reading a missing key would add it to the message.
        if lowered and not ("_lower_using_switch_merge" in attrs and attrs["_lower_using_switch_merge"].b):
            self.hazard = f"op '{name}' ({op_type}) is control flow that is not lowered to Switch and Merge"
            return
        if "executor_type" in attrs and attrs["executor_type"].s not in (b"", b"DEFAULT"):
            self.hazard = f"op '{name}' ({op_type}) asks for an executor of its own"
            return
        for attr in names:
            if attr not in attrs:
                self.hazard = f"op '{name}' ({op_type}) does not say which function it runs"
                return
            value = attrs[attr]
            functions = [value.func.name] if value.HasField("func") else [f.name for f in value.list.func]
            for function in functions:
                self._call(name, op_type, function, merged=lowered)

    def verdict(self) -> _Verdict:
        """Returns what the walk found."""
        hazard = self.hazard
        if hazard is None and self._loop is not None and self._nesting is not None:
            hazard = f"op {self._nesting} may exhaust the stack, since op {self._loop} makes a loop"
        return _Verdict(hazard, self.n_ops, self._loop, self._nesting)

    def _visit_unlisted(self, name: str, op_type: str) -> None:
        """Judges an op that is not on the list: a call by the function's own name, or something to refuse."""
        if _function_attrs(op_type) is None and self._library.body(op_type) is not None:
            self._nesting = self._nesting or f"'{name}' ({op_type})"
            self._call(name, op_type, op_type, merged=False)
        else:
            self.hazard = f"op '{name}' ({op_type}) may wait for another op of the step"

    def _call(self, name: str, op_type: str, function: str, merged: bool) -> None:
        """Takes a function that an op runs into account.

        Args:
          name: the op's name.
          op_type: its type.
          function: the function's name.
          merged: whether the body becomes part of the caller's graph.
        """
        found = self._library.judge(function)
        self.n_ops += found.n_ops
        if found.hazard is not None and self.hazard is None:
            self.hazard = f"op '{name}' ({op_type}) runs function '{function}', in which {found.hazard}"
        if merged:
            self._loop = self._loop or found.loop
            self._nesting = self._nesting or found.nesting


def _is_compiled(attrs: Any) -> bool:
    """Says whether a node or function with these attributes is handed to XLA or a TPU as a whole."""
    return any(name in attrs and (attrs[name].b or attrs[name].s) for name in _COMPILED_ATTRS)


def _function_attrs(op_type: str) -> tuple[str, ...] | None:
    """Returns the names of the attributes of an op type that hold functions, None if there is no such type."""
    try:
        return _function_attrs_of[op_type]
    except KeyError:
        pass
    op_def = op_def_registry.get(op_type)
    if op_def is None:
        # Not remembered: a library with this op may be loaded later.
        return None
    names = tuple(a.name for a in op_def.attr if a.type in ("func", "list(func)"))
    _function_attrs_of[op_type] = names
    return names


# Nearly every op of every graph: safe whatever surrounds it, and it calls no function. Optimised for in `inline_hazard`.
_PLAIN_OPS = frozenset(
    t
    for t in INLINE_SAFE_OPS - NESTING_OPS - LOOP_OPS
    if "Dataset" not in t and t != "OneShotIterator"
)
