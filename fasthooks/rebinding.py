"""TensorFlow's functions as they are, seeing other classes under the names that they use."""

import types


def rebound(function, **names):
    """Returns a copy of a function that finds these objects under these global names, and all others where it did.

    Programs and frameworks put their own classes, or ours, into TensorFlow's modules. A method there that names its own
    class (`super(MonitoredSession, self)`) would then find the other one, and, if that derives from it, itself again.
    What is no plain function, a mock for example, is returned as it is.
    """
    if not isinstance(function, types.FunctionType):
        return function
    seen = {**function.__globals__, **names}
    copied = types.FunctionType(function.__code__, seen, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied
