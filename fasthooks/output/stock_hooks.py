"""What stock hooks do when they act and write: a line without a record, a scalar without a Summary made to be serialized.

For our hooks, and for TensorFlow's own in the sessions that `patching` serves. Each function is told what the hook would call
without it, and calls that where anything is not TensorFlow's own.
"""

import types
from collections.abc import Callable
from typing import Any

import numpy as np
from tensorflow.python.platform import tf_logging as logging
from tensorflow.python.training import basic_session_run_hooks as stock

from fasthooks import known_tensorflow
from fasthooks.output import _log_line, direct_writes
from fasthooks.rebinding import rebound
from fasthooks.triggers import _guard


def _own(cls, name):
    # TensorFlow's method; None: it is not known, or somebody's own has taken its place.
    method = getattr(cls, name, None)
    return method if known_tensorflow.is_known(cls) and _guard.is_own_method(cls, name, method, stock) else None


_Summary = getattr(stock, "Summary", None)
_log_and_record = _own(stock.StepCounterHook, "_log_and_record")
_record_scalar = rebound(_log_and_record, Summary=direct_writes.Scalar, logging=_log_line)
_log_tensors = _own(stock.LoggingTensorHook, "_log_tensors")
# NumPy's print options take as long to set and to set back as the line takes, and change nothing about these.
_log_scalars = rebound(_log_tensors, np=types.SimpleNamespace(get_printoptions=dict, set_printoptions=lambda **options: None),
                       logging=_log_line)
_SCALARS = frozenset([*(np.dtype(code).type for code in "?bhilqBHILQefd"), bytes])


def _is(method, known):
    return known is not None and _guard.original_of(getattr(method, "__func__", None)) is known


def log_and_record(usual: Callable[..., None], hook: Any, elapsed_steps: Any, elapsed_time: Any, global_step: Any) -> None:
    """Does what `StepCounterHook._log_and_record` does.

    Args:
      usual: The hook's own method, bound.
      hook: The hook.
      elapsed_steps: As the method, and so are the next two.
    """
    writer = hook._summary_writer
    if (_is(usual, _log_and_record) and stock.Summary is _Summary and stock.logging is logging
            and (writer is None or type(getattr(writer, "add_summary", None)) is direct_writes.AddSummary)):
        _record_scalar(hook, elapsed_steps, elapsed_time, global_step)
    else:
        usual(elapsed_steps, elapsed_time, global_step)


def log_tensors(usual: Callable[[Any], None], hook: Any, tensor_values: Any) -> None:
    """Does what `LoggingTensorHook._log_tensors` does.

    Args:
      usual: The hook's own method, bound.
      hook: The hook.
      tensor_values: As the method.
    """
    if (_is(usual, _log_tensors) and stock.logging is logging and not hook._formatter and type(tensor_values) is dict
            and _SCALARS.issuperset(map(type, tensor_values.values()))):
        _log_scalars(hook, tensor_values)
    else:
        usual(tensor_values)
