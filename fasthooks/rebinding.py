"""TensorFlow's functions and methods as they are, under other names or behind what was set in their place."""

import inspect
import types
from typing import Any


def class_method(obj: Any, name: str) -> Any:
    """Returns what `obj.name` would be if nothing were set on the object itself. Mocks on the class do not bind."""
    cls = type(obj)
    found = inspect.getattr_static(cls, name)
    return found.__get__(obj, cls) if hasattr(type(found), "__get__") else found


def rebound(function: Any, **names: Any) -> Any:
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
