"""Which of TensorFlow's and wandb's own hook objects have a compiled trigger that stands for them."""

import sys
from typing import Any

from tensorflow.python.framework import tensor_util
from tensorflow.python.training import basic_session_run_hooks as stock
from tensorflow.python.training import training_util
from tensorflow.python.training.session_run_hook import SessionRunHook

from fasthooks import known_tensorflow
from fasthooks.triggers import _everyday, _guard, _timer, _trigger

# By exact class; whether its methods are still TensorFlow's own is asked on every step. A hook whose code is not known has
# no trigger, and is called on every step.
_STOCK_TRIGGERS = {
    stock.StopAtStepHook: _trigger.StopAtStepTrigger,
    stock.StepCounterHook: _trigger.StepCounterTrigger,
    stock.LoggingTensorHook: _trigger.LoggingTensorTrigger,
    stock.NanTensorHook: _trigger.NanTensorTrigger,
    stock.SummarySaverHook: _trigger.SummarySaverTrigger,
    stock.CheckpointSaverHook: _trigger.CheckpointSaverTrigger,
    stock.GlobalStepWaiterHook: _trigger.GlobalStepWaiterTrigger,
    stock.ProfilerHook: _trigger.ProfilerTrigger,
}
_TRIGGERS = {hook: trigger for hook, trigger in _STOCK_TRIGGERS.items() if known_tensorflow.is_known(hook)}
_WANDB_MODULE = "wandb.integration.tensorflow.estimator_hook"
_HOOK_METHODS = ("before_run", "after_run")


def trigger_for(hook: Any) -> Any:
    """Returns a trigger that stands for a hook object of TensorFlow's or wandb's own; None for any other."""
    trigger = _TRIGGERS.get(type(hook))
    if trigger is not None:
        return trigger()
    wandb_module = sys.modules.get(_WANDB_MODULE)
    if wandb_module is not None and type(hook) is wandb_module.WandbHook:
        _know(type(hook), wandb_module, _HOOK_METHODS)
        peer = _trigger.WandbPeerTrigger()
        peer._global_step_tensor = training_util.get_global_step()
        peer._increment = constant_increment(peer._global_step_tensor)
        return peer
    return None


def constant_increment(global_step: Any) -> int | None:
    """Returns the largest constant that the graph adds to the global step; None if it shows none."""
    # The ops take a resource variable's handle, or the reference itself; a plain tensor is nobody's counter.
    target = getattr(global_step, "handle", None)
    if target is None:
        target = getattr(global_step, "op", None) and global_step.op.outputs[0]
    added = [
        tensor_util.constant_value(amount)
        for op in (target.consumers() if target is not None else ())
        if op.inputs[0] is target and (amount := _added(op)) is not None
    ]
    if not added or None in added:
        return None
    return int(max(added))


def _added(op):
    # What the op adds to the variable that it updates; None if it does something else.
    if op.type in ("AssignAdd", "AssignAddVariableOp"):
        return op.inputs[1]
    if op.type in ("Assign", "AssignVariableOp") and op.inputs[1].op.type in ("Add", "AddV2"):
        one, other = op.inputs[1].op.inputs
        if _is_read(one, op.inputs[0]):
            return other
        if _is_read(other, op.inputs[0]):
            return one
    return None


def _is_read(tensor, variable):
    while tensor.op.type in ("Identity", "ReadVariableOp"):
        tensor = tensor.op.inputs[0]
    return tensor is variable


def know_hook(cls: type) -> None:
    """Declares a class of ours that a trigger serves; where the code of a base is not known, it is called on every step."""
    if known_tensorflow.is_known(cls):
        _guard.know_class(cls)


def _know(cls, module, names):
    # Only what stands in the class's own file is what the triggers were written after.
    if not known_tensorflow.is_known(cls):
        return
    _guard.know_class(cls)
    for name in names:
        function = vars(cls).get(name)
        if function is not None and _guard.is_own_method(cls, name, function, module):
            _guard.know(function)


for _cls in (*_STOCK_TRIGGERS, SessionRunHook):
    _know(_cls, sys.modules[_cls.__module__], _HOOK_METHODS)
for _name in {"SecondOrStepTimer", "NeverTriggerTimer", "_HookTimer"} & vars(stock).keys():
    _know(vars(stock)[_name], stock, ("should_trigger_for_step", "update_last_triggered_step", "last_triggered_step", "reset"))
for _value in [*vars(_timer).values(), *vars(_trigger).values(), *vars(_everyday).values()]:
    if isinstance(_value, type) and issubclass(_value, _guard.Watched):
        _guard.know(*vars(_value).values())
