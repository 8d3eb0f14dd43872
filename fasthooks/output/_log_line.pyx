# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""`tf_logging.info` for lines that need no LogRecord.

On a step in a hundred, all that makes a record and hands it on is code that no cache has: it costs more than the line.
One handler that does nothing but write `level:name:message` to a stream writes the same without a record. Where anything
else would see the record, or was put in the place of what makes it, or a clock that somebody counts on would be read, the
line is left to the standard library, before anything is written.
"""

import logging
import sys
import threading
import time
import types

import numpy as np
from tensorflow.python.platform import tf_logging

from fasthooks import known_tensorflow
from fasthooks.triggers import _guard

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from fasthooks.triggers._guard cimport ClassGuard, instance_dict

# Names are looked up once where that is enough: what a line has to read is in no cache either.
cdef object _INFO = logging.INFO
cdef object _Logger = logging.Logger
cdef object _StreamHandler = logging.StreamHandler
cdef object _FileHandler = logging.FileHandler
cdef object _Formatter = logging.Formatter
cdef object _PercentStyle = logging.PercentStyle
cdef object _Lock = type(threading.RLock())
cdef object _float64 = np.float64
cdef object _info = tf_logging.info
cdef object _get_logger = tf_logging.get_logger
cdef object _find_caller = getattr(tf_logging, "_logger_find_caller", None)
cdef object _LogRecord = logging.LogRecord
cdef object _get_level_name = logging.getLevelName
cdef object _time = time.time
cdef object _time_ns = time.time_ns

# Methods by which a record comes to be and to its line.
cdef tuple _LOGGER_METHODS = ("info", "isEnabledFor", "_log", "makeRecord", "handle", "filter", "callHandlers")
cdef tuple _HANDLER_METHODS = ("handle", "filter", "acquire", "release", "emit", "format", "flush", "handleError")
cdef tuple _FORMATTER_METHODS = ("format", "usesTime", "formatMessage")
cdef tuple _STYLE_METHODS = ("format", "usesTime", "_format")
cdef ClassGuard _logger_guard = ClassGuard(_Logger, logging, _LOGGER_METHODS)
cdef ClassGuard _record_guard = ClassGuard(_LogRecord, logging, ("__init__", "getMessage"))
cdef ClassGuard _stream_guard = ClassGuard(_StreamHandler, logging, _HANDLER_METHODS)
cdef ClassGuard _file_guard = ClassGuard(_FileHandler, logging, _HANDLER_METHODS, (_stream_guard,))
cdef ClassGuard _formatter_guard = ClassGuard(_Formatter, logging, _FORMATTER_METHODS)
cdef ClassGuard _style_guard = ClassGuard(_PercentStyle, logging, _STYLE_METHODS)
cdef bint _KNOWN = (
    known_tensorflow.is_known(_info, _get_logger) and _guard.is_defined_in(_info, tf_logging, "info")
    and _guard.is_defined_in(_get_logger, tf_logging, "get_logger")
    and _guard.is_defined_in(_find_caller, tf_logging, "_logger_find_caller")
    and _guard.is_defined_in(_get_level_name, logging, "getLevelName") and logging._logRecordFactory is _LogRecord
    and type(_time) is type(len) and type(_time_ns) is type(len)
    and not hasattr(_Logger, "_tls"))   # Python 3.13.4 and 3.13.5 drop what is logged while a line is written


def info(msg, *args):
    """Does what `tf_logging.info` does.

    Args:
      msg: The message, or a format for `args`.
      *args: See above.
    """
    if not write(msg, args):
        tf_logging.info(msg, *args)


class _Values(dict):
    """Fields of a record that stand for all of it only where a format names them."""

    def __repr__(self):
        raise KeyError("the record")


cdef bint write(object msg, tuple args) except -1:
    logger = tf_logging._logger
    if not _KNOWN or type(logger) is not _Logger or type(msg) is not str:
        return False
    for arg in args:    # how anything else prints may be code of somebody's own
        if type(arg) is not str and type(arg) is not float and type(arg) is not _float64:
            return False
    try:
        handler = _receiver(logger) if _is_intact() else None
        line = None if handler is None else _line(logger, handler, msg % args if args else msg)
    except Exception:   # a format shows more of the record, or something is missing or of another kind
        return False
    if line is None:
        return False
    _emit(logger, handler, line, msg, args)
    return True


cdef bint _is_intact() except -1:
    # Functions that logging calls for any line. The clock is one of them: its readings may be somebody's to count.
    clock = logging.time
    return (tf_logging.info is _info and tf_logging.get_logger is _get_logger
            and logging._logRecordFactory is _LogRecord and logging.getLevelName is _get_level_name
            and clock.time is _time and clock.time_ns is _time_ns and logging.StreamHandler is _StreamHandler
            and _logger_guard.intact() and _record_guard.intact())


cdef dict _own(object obj, tuple methods):
    # The attributes of an object itself; raises an error if one of them stands in the place of a method.
    cdef PyObject* found = instance_dict(<PyObject*>obj)
    if found is NULL:
        raise AttributeError("__dict__")
    own = <dict><object>found
    Py_DECREF(own)  # `own` holds its own reference
    for name in methods:
        if name in own:
            raise AttributeError(name)
    return own


cdef object _receiver(object logger):
    # The handler that alone gets the record; None: there are others, or nobody gets it.
    cdef dict own = _own(logger, _LOGGER_METHODS)
    found = None
    if own["findCaller"] is not _find_caller or own["disabled"] or own["filters"]:
        return None
    if own["_cache"].get(_INFO) is not True:    # whether the logger is enabled; not yet asked for the first time
        return None
    while logger:
        for handler in logger.handlers:
            if _INFO >= handler.level:
                if found is not None:
                    return None
                found = handler
        logger = logger.parent if logger.propagate else None
    return found


cdef str _line(object logger, object handler, object message):
    # What the handler writes to its stream; None: it does something else.
    cdef dict own
    cls = type(handler)
    if not (cls is _StreamHandler and _stream_guard.intact() or cls is _FileHandler and _file_guard.intact()):
        return None
    own = _own(handler, _HANDLER_METHODS)
    if own["filters"] or type(own["lock"]) is not _Lock:
        return None
    formatter = own["formatter"] or logging._defaultFormatter
    if type(formatter) is not _Formatter or not _formatter_guard.intact():
        return None
    style = _own(formatter, _FORMATTER_METHODS)["_style"]
    if type(style) is not _PercentStyle or not _style_guard.intact():
        return None
    own = _own(style, _STYLE_METHODS)
    parts = format, level, name, terminator = own["_fmt"], logging._levelToName[_INFO], logger.name, handler.terminator
    for part in parts:
        if type(part) is not str:
            return None
    if own["_defaults"] or "%(asctime)" in format:
        return None
    return format % _Values(levelname=level, name=name, message=message) + terminator


cdef int _emit(object logger, object handler, str line, object msg, tuple args) except -1:
    lock = handler.lock
    lock.acquire()
    try:
        if type(handler) is _FileHandler and not handler.stream:
            # It is not open yet, or not any more.
            handler.emit(_record(logger, msg, args))
            return 0
        try:
            handler.stream.write(line)
            stream = handler.stream
            if stream and hasattr(stream, "flush"):
                stream.flush()
        except RecursionError:
            raise
        except Exception as error:
            # Compiled functions have no frame, by which logging would find the call that led here.
            caller = sys._getframe()
            error.__traceback__ = types.TracebackType(error.__traceback__, caller, caller.f_lasti, caller.f_lineno)
            handler.handleError(_record(logger, msg, args))
    finally:
        lock.release()
    return 0


cdef object _record(object logger, object msg, tuple args):
    caller = sys._getframe()
    code = caller.f_code
    return logger.makeRecord(logger.name, _INFO, code.co_filename, caller.f_lineno, msg, args, None, code.co_name)
