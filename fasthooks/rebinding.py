"""TensorFlow's functions as they are, seeing other classes under the names that they use."""

import inspect
import types


def rebound(function, **names):
    """Returns a copy of a function that finds these objects under these global names, and all others where it did.

    Programs and frameworks put their own classes, or ours, into TensorFlow's modules. A method there that names its own
    class (`super(MonitoredSession, self)`) would then find the other one, and, if that derives from it, itself again.
    What is no plain function, a mock for example, is returned as it is.
    """
    if not isinstance(function, types.FunctionType):
        return function
    inner = inspect.unwrap(function)  # tf.estimator deprecates constructors by wrapping them
    if all(inner.__globals__.get(name) is value for name, value in names.items()):
        return function
    seen = {**inner.__globals__, **names}
    copied = types.FunctionType(inner.__code__, seen, inner.__name__, inner.__defaults__, inner.__closure__)
    copied.__kwdefaults__ = inner.__kwdefaults__
    return copied
