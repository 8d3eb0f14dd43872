"""What arguments must be: counts, seconds, flags, periods. NumPy's numbers are taken as Python's are."""

import math
from numbers import Integral, Real


def as_int(number: object) -> int | None:
    """Returns an integer, of Python's kind or NumPy's, as an int; None for what is none."""
    return None if isinstance(number, bool) or not isinstance(number, Integral) else int(number)


def check_count(name: str, count: object) -> int:
    """Returns the count as an int.

    Raises:
      ValueError: That is not a positive integer.
    """
    found = as_int(count)
    if found is None or found <= 0:
        raise ValueError(f"{name} must be a positive int; got {count!r}.")
    return found


def as_float(number: object) -> float:
    """Returns a real number as a float: infinity for an int that none can hold, NaN for what is no such number."""
    if isinstance(number, bool) or not isinstance(number, Real):
        return math.nan
    try:
        return float(number)
    except OverflowError:
        return math.inf


def check_secs(name: str, secs: object) -> float:
    """Returns the seconds as a float.

    Raises:
      ValueError: That is not a positive number that a float can hold.
    """
    seconds = as_float(secs)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be a positive number; got {secs!r}.")
    return seconds


def check_flag(name: str, flag: object) -> None:
    """Raises ValueError for what is neither True nor False."""
    if not isinstance(flag, bool):
        raise ValueError(f"{name} must be True or False; got {flag!r}.")


def check_one_given(**arguments: object) -> None:
    """Raises ValueError unless one of the arguments, of any number, is not None."""
    if list(arguments.values()).count(None) != len(arguments) - 1:
        *names, last = arguments
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ValueError(f"Exactly one of {', '.join(names)} and {last} must be given; got {given}.")


def check_period(at_end: object, **period: object) -> None:
    """Raises ValueError unless one of the arguments is given, and of its kind: seconds or a count, as its name ends."""
    check_one_given(**period)
    for name, value in period.items():
        if value is not None:
            (check_secs if name.endswith("secs") else check_count)(name, value)
    check_flag("at_end", at_end)
