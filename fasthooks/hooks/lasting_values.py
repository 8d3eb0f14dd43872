"""Which fetched values no op of a graph changes, so that they need not be copied.

The value that a ReadVariableOp returned does not change if all kernels that update the variable make a new buffer when
somebody holds the old one. Not all do, so every op that is given the variable's handle must be on a list of ops that were
checked, and no op that is given its value may be one that writes into what it is given, or that nobody can look into:
functions, Python, other libraries. A variable takes the memory of what it is assigned, so the same is asked of the ops that give
it that: none may go on writing there, as an array of a function in Python or the buffer of a reference variable is written to.
"""

from collections.abc import Iterable
from typing import Any

import tensorflow
from tensorflow.python.framework import dtypes

# Ops that leave a resource variable's buffer alone while somebody holds it. StatefulRandomBinomial does not; functions and
# ops of other libraries may do anything.
CHECKED_OPS = frozenset((
    "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp", "ReadVariableOp", "ResourceApplyAdaMax",
    "ResourceApplyAdadelta", "ResourceApplyAdagrad", "ResourceApplyAdagradDA", "ResourceApplyAdagradV2",
    "ResourceApplyAdam", "ResourceApplyAdamWithAmsgrad", "ResourceApplyAddSign", "ResourceApplyCenteredRMSProp",
    "ResourceApplyFtrl", "ResourceApplyFtrlV2", "ResourceApplyGradientDescent", "ResourceApplyKerasMomentum",
    "ResourceApplyMomentum", "ResourceApplyPowerSign", "ResourceApplyProximalAdagrad",
    "ResourceApplyProximalGradientDescent", "ResourceApplyRMSProp", "ResourceCountUpTo", "ResourceGather",
    "ResourceGatherNd", "ResourceScatterAdd", "ResourceScatterDiv", "ResourceScatterMax", "ResourceScatterMin",
    "ResourceScatterMul", "ResourceScatterNdAdd", "ResourceScatterNdMax", "ResourceScatterNdMin", "ResourceScatterNdSub",
    "ResourceScatterNdUpdate", "ResourceScatterSub", "ResourceScatterUpdate", "ResourceSparseApplyAdadelta",
    "ResourceSparseApplyAdagrad", "ResourceSparseApplyAdagradDA", "ResourceSparseApplyAdagradV2",
    "ResourceSparseApplyCenteredRMSProp", "ResourceSparseApplyFtrl", "ResourceSparseApplyFtrlV2",
    "ResourceSparseApplyKerasMomentum", "ResourceSparseApplyMomentum", "ResourceSparseApplyProximalAdagrad",
    "ResourceSparseApplyProximalGradientDescent", "ResourceSparseApplyRMSProp", "ResourceStridedSliceAssign",
    "RngReadAndSkip", "RngSkip", "StatefulStandardNormalV2", "StatefulTruncatedNormal", "StatefulUniform",
    "StatefulUniformFullInt", "StatefulUniformInt", "VarIsInitializedOp", "VariableShape"))
# What comes out of these is the handle that goes in.
_HANDLE_PASSING_OPS = frozenset(("Enter", "Exit", "Identity", "Merge", "NextIteration", "Switch"))
# What comes out of these may be the memory that goes in.
_MEMORY_PASSING_OPS = _HANDLE_PASSING_OPS | {
    "All", "Any", "Bitcast", "BroadcastTo", "Cast", "CheckNumerics", "CheckNumericsV2", "Concat", "ConcatV2", "Conj",
    "EnsureShape", "ExpandDims", "GuaranteeConst", "IdentityN", "Max", "Mean", "Min", "Pack", "Pad", "PadV2",
    "PlaceholderWithDefault", "PreventGradient", "Print", "Prod", "Real", "RefSwitch", "Reshape", "Reverse", "ReverseV2", "Slice",
    "Snapshot", "Split", "SplitV", "Squeeze", "StopGradient", "StridedSlice", "Sum", "Tile", "Transpose", "Unpack"}
# What comes out of these is memory that others may have: what was fed, what another run left there.
_FOREIGN_OPS = ("Placeholder", "Unstage", "MapUnstage", "OrderedMapUnstage")
# TensorFlow's own that write into what they are given, or hand it to code that may.
_WRITING_OPS = ("EagerPyFunc", "Inplace", "PyFunc", "Xla")


def with_lasting_values(graph: Any, tensors: Iterable[Any]) -> set[Any]:
    """Returns the references of those tensors whose values, once fetched, no op of the graph changes."""
    handles: dict[bytes, list[Any]] = {}
    for op in graph.get_operations():
        if op.type == "VarHandleOp":
            handles.setdefault(_variable_of(op), []).append(op.outputs[0])
    lasting = set()
    for tensor in tensors:
        op = tensor.op
        while op.type == "Identity":
            op = op.inputs[0].op
        # Else a variable's memory may be what was fetched.
        if op.type == "ReadVariableOp":
            handle = op.inputs[0].op
            if handle.type == "VarHandleOp" and _is_left_alone(handles[_variable_of(handle)]):
                lasting.add(tensor.ref())
    return lasting


def _variable_of(handle_op):
    # Of two ops with this name, both give the same variable.
    return handle_op.get_attr("shared_name") or handle_op.name.encode()


def _is_left_alone(handles):
    """Returns whether no op that these handles of one variable, or its values, go to changes a value that was read."""
    values: list[Any] = []
    assigned: list[Any] = []
    return (_leads_to(handles, _HANDLE_PASSING_OPS, lambda op: _takes_handle(op, values, assigned))
            and _leads_to(values, _MEMORY_PASSING_OPS, _leaves_memory)
            and _are_in_memory_of_their_own(assigned))


def _leads_to(tensors, passing, is_good):
    # Whether all ops that use these tensors, also behind ops that pass them on, are good.
    waiting = list(tensors)
    seen = set()
    while waiting:
        for op in waiting.pop().consumers():
            if op in seen:
                continue
            seen.add(op)
            if op.type in passing:
                waiting.extend(op.outputs)
            elif not is_good(op):
                return False
    return True


def _are_in_memory_of_their_own(tensors):
    """Returns whether the memory that these tensors are in is that of ops after which nobody else writes to it."""
    waiting = [tensor.op for tensor in tensors]
    seen = set()
    while waiting:
        op = waiting.pop()
        if op in seen:
            continue
        seen.add(op)
        if op.type.startswith(_FOREIGN_OPS):
            return False
        if op.type in _MEMORY_PASSING_OPS:
            waiting.extend(tensor.op for tensor in op.inputs)
        elif not _keeps_nothing(op) or any(tensor.dtype._is_ref_dtype for tensor in (*op.inputs, *op.outputs)):
            return False
    return True


def _takes_handle(op, values, assigned):
    if op.type == "ReadVariableOp":
        values.append(op.outputs[0])
    elif op.type == "AssignVariableOp":
        assigned.append(op.inputs[1])
    return op.type in CHECKED_OPS


def _leaves_memory(op):
    """Returns whether an op neither writes into what it is given nor puts it where others find it."""
    # What another variable is assigned is its memory too then, and its readers' to look at.
    return op.type != "AssignVariableOp" and (op.type in CHECKED_OPS or _keeps_nothing(op))


def _keeps_nothing(op):
    # Whether an op is TensorFlow's own, and computes what comes out of it from what goes in.
    if op.op_def is None or not hasattr(tensorflow.raw_ops, op.type) or op.type.startswith(_WRITING_OPS):
        return False
    return not (any(attr.type in ("func", "list(func)") for attr in op.op_def.attr)
                or any(tensor.dtype.base_dtype in (dtypes.resource, dtypes.variant) for tensor in (*op.inputs, *op.outputs)))
