"""Lines of hooks that are written without a LogRecord: the same lines, and everybody who would see the record sees it."""

import contextlib
import io
import logging
import os
import re
import sys
import threading
import time
import types
from unittest import mock

import apart
import numpy as np
import pytest
import tensorflow as tf
from helpers import v1
from tensorflow.python.platform import tf_logging
from tensorflow.python.training import training_util

import fasthooks
from fasthooks.output import _log_line

FORMAT = "%(levelname)s:%(name)s:%(message)s"


class Stream(io.StringIO):
    """Knows of each line whether logging wrote it."""

    def __init__(self):
        super().__init__()
        self.directly = []
        self.flushed = 0

    def write(self, text):
        self.directly.append(sys._getframe(1).f_code.co_filename != logging.__file__)
        super().write(text)
        self.after("write")

    def flush(self):
        self.flushed += 1
        self.after("flush")

    def after(self, call):
        pass


@pytest.fixture
def logger():
    """TensorFlow's logger with no handlers and at INFO, to which nobody else listens."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.INFO)
    # pytest listens to the root, and to all that do not propagate.
    with mock.patch.object(logger, "handlers", []), mock.patch.object(logger, "parent", logging.Logger("nobody")):
        assert logger.isEnabledFor(logging.INFO)
        yield logger
    logger.setLevel(level)


def handler_of(stream, format=FORMAT, **options):
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(format, **options))
    return handler


@pytest.fixture
def handler(logger):
    logger.handlers.append(handler_of(Stream()))
    return logger.handlers[0]


def both(handler, *line):
    """Logs a line by TensorFlow's function and by ours; returns each one's text, and whether ours went by no record."""
    told = []
    for info in (tf_logging.info, _log_line.info):
        stream = handler.stream = Stream()
        info(*line)
        told.append((stream.getvalue(), stream.flushed))
    assert told[0] == told[1]
    return told[0][0], stream.directly == [True]


@pytest.mark.parametrize(("line", "text"), [
    (("steps",), "steps"), (("%",), "%"), (("%s: %g", "global_step/sec", 1234.5), "global_step/sec: 1234.5"),
    (("%s: %g", "sec", np.float64(0.1)), "sec: 0.1"), (("%s (%.3f sec)", "\xe4 = 1", 0.0625), "\xe4 = 1 (0.062 sec)"),
])
def test_lines_of_hooks(handler, line, text):
    assert both(handler, *line) == (f"INFO:tensorflow:{text}\n", True)


@pytest.mark.parametrize("format", [
    None, "%(message)s", "%(name)-12s|%(levelname)8s|%(message).5s", "no field", "%(message)s %(message)s %%"])
def test_formats_without_anything_else_of_the_record(handler, format):
    handler.setFormatter(None if format is None else logging.Formatter(format, validate=format != "no field"))
    text, directly = both(handler, "%s: %g", "global_step/sec", 10.0)
    assert directly and text.endswith("\n")


def test_terminator_and_name_of_the_level(handler):
    handler.terminator = "\r\n"
    try:
        logging.addLevelName(logging.INFO, "note")
        assert both(handler, "steps") == ("note:tensorflow:steps\r\n", True)
        logging.addLevelName(logging.INFO, None)
        assert both(handler, "steps") == ("Level 20:tensorflow:steps\r\n", False)
    finally:
        logging.addLevelName(logging.INFO, "INFO")


def test_a_handler_of_a_parent(logger):
    stream = Stream()
    logger.parent.addHandler(handler_of(stream))
    logger.addHandler(handler_of(Stream()))
    logger.handlers[0].setLevel(logging.WARNING)
    _log_line.info("steps")
    with mock.patch.object(logger, "propagate", False):
        _log_line.info("to nobody")
    assert (stream.getvalue(), stream.directly) == ("INFO:tensorflow:steps\n", [True])


@pytest.mark.parametrize("where", ["beside", "above"])
def test_of_several_handlers_each_may_change_the_others(logger, handler, where):
    class Changing(Stream):
        def after(self, call):
            others.setLevel(logging.WARNING)

    others = handler_of(Stream())
    (logger if where == "beside" else logger.parent).addHandler(others)
    assert both(handler, "steps") == ("INFO:tensorflow:steps\n", False)
    assert others.stream.getvalue() == "INFO:tensorflow:steps\n" * 2
    handler.stream = Changing()
    _log_line.info("steps")
    assert others.stream.getvalue() == "INFO:tensorflow:steps\n" * 2


def test_a_handler_that_does_more_has_its_lines_made_by_logging(logger, handler):
    seen = []
    logger.handlers[0] = other = logging.Handler()
    other.emit = seen.append
    _log_line.info("%s", "steps")
    assert [record.args for record in seen] == [("steps",)]


@pytest.mark.parametrize("delay", [False, True])
def test_files(logger, tmp_path, delay):
    handler = logging.FileHandler(tmp_path / "log", delay=delay)
    logger.addHandler(handler)
    for text in ("first", "second"):
        _log_line.info(text)
    handler.close()
    assert (tmp_path / "log").read_text() == "first\nsecond\n"
    _log_line.info("third")  # opens a closed file of mode "a" again, as logging does
    handler.close()
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"


def test_a_file_that_is_closed_while_a_line_waits_for_it(logger, tmp_path):
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    with handler.lock:
        waiting = threading.Thread(target=_log_line.info, args=("second",))
        waiting.start()
        time.sleep(0.2)
        _log_line.info("first")
        handler.close()
    waiting.join()
    handler.close()
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_a_file_whose_stream_is_false_is_not_written(logger, tmp_path):
    class Empty(Stream):
        def __len__(self):
            return 0

    handler = logging.FileHandler(tmp_path / "log", delay=True)
    logger.addHandler(handler)
    for info in (tf_logging.info, _log_line.info):
        handler.stream = Empty()
        info("steps")
        assert (handler.stream.directly, handler.stream.flushed) == ([], 0)


@pytest.mark.parametrize("closed_by", ["level", "disable", "disabled", "handler"])
def test_no_line(logger, handler, closed_by):
    with contextlib.ExitStack() as stack:
        if closed_by == "level":
            logger.setLevel(logging.WARNING)
        elif closed_by == "disable":
            logging.disable(logging.INFO)
            stack.callback(logging.disable, logging.NOTSET)
        elif closed_by == "disabled":
            stack.enter_context(mock.patch.object(logger, "disabled", True))
        else:
            handler.setLevel(logging.WARNING)
        assert both(handler, "steps") == ("", False)


def test_without_handlers(logger):
    logger.handlers.clear()
    last = handler_of(Stream())
    with mock.patch.object(logging, "lastResort", last):
        assert both(last, "steps") == ("INFO:tensorflow:steps\n", False)


# What others put in the place of something, or set beside it

CLASSES = {
    logging.Logger: ("info", "isEnabledFor", "_log", "makeRecord", "handle", "filter", "callHandlers"),
    logging.LogRecord: ("__init__", "getMessage"),
    logging.StreamHandler: ("handle", "filter", "acquire", "release", "emit", "format", "flush", "handleError"),
    logging.Formatter: ("format", "usesTime", "formatMessage"),
    logging.PercentStyle: ("format", "usesTime", "_format"),
}
# Python 3.13 takes the lock itself.
NOT_ALWAYS_CALLED = ("acquire", "release", "handleError")


def noting(calls, function):
    def call(*args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls, names in CLASSES.items() for name in names],
                         ids=lambda value: getattr(value, "__name__", value))
def test_methods_that_are_replaced_on_classes_are_called(handler, cls, name):
    calls = []
    with mock.patch.object(cls, name, noting(calls, getattr(cls, name))):
        assert both(handler, "%s: %g", "sec", 1.0) == ("INFO:tensorflow:sec: 1\n", False)
    # As often by our line as by TensorFlow's.
    assert len(calls) % 2 == 0 and (calls or name in NOT_ALWAYS_CALLED)
    assert both(handler, "steps")[1]


@pytest.mark.parametrize("name", CLASSES[logging.StreamHandler])
def test_methods_that_are_replaced_on_the_class_of_files_are_called(logger, tmp_path, name):
    calls = []
    logger.handlers.append(logging.FileHandler(tmp_path / "log"))
    with mock.patch.object(logging.FileHandler, name, noting(calls, getattr(logging.FileHandler, name))):
        tf_logging.info("steps")
        expected = len(calls)
        _log_line.info("steps")
    assert len(calls) == 2 * expected and (expected or name in NOT_ALWAYS_CALLED)
    logger.handlers[0].close()


@pytest.mark.parametrize("name", ["emit", "flush"])
def test_what_files_have_from_streams_may_be_replaced_there(logger, tmp_path, name):
    calls = []
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    with mock.patch.object(logging.StreamHandler, name, noting(calls, getattr(logging.StreamHandler, name))):
        _log_line.info("steps")
    with mock.patch.object(logging, "StreamHandler", mock.Mock(wraps=logging.StreamHandler)) as replaced:
        _log_line.info("steps")
    logger.handlers[0].close()
    assert len(calls) == 1 and len(replaced.mock_calls) == 1
    assert (tmp_path / "log").read_text() == "steps\nsteps\n"


@pytest.mark.parametrize(("whose", "name"), [
    *(("logger", name) for name in CLASSES[logging.Logger]), ("logger", "findCaller"),
    *(("handler", name) for name in CLASSES[logging.StreamHandler]),
    *(("formatter", name) for name in CLASSES[logging.Formatter]), *(("style", name) for name in CLASSES[logging.PercentStyle])])
def test_methods_that_are_set_on_objects_are_called(logger, handler, whose, name):
    owner = {"logger": logger, "handler": handler, "formatter": handler.formatter, "style": handler.formatter._style}[whose]
    calls = []
    with mock.patch.object(owner, name, noting(calls, getattr(owner, name))):
        assert both(handler, "%s: %g", "sec", 1.0) == ("INFO:tensorflow:sec: 1\n", False)
    assert len(calls) % 2 == 0 and (calls or name in NOT_ALWAYS_CALLED)
    assert both(handler, "steps")[1]


@pytest.mark.parametrize(("module", "name"), [
    (tf_logging, "get_logger"), (logging, "_logRecordFactory"), (logging, "getLevelName"), (time, "time"), (time, "time_ns"),
], ids=lambda value: getattr(value, "__name__", value))
def test_functions_that_are_replaced_are_called(handler, module, name):
    calls = []
    with mock.patch.object(module, name, noting(calls, getattr(module, name))):
        told, directly = both(handler, "steps")
    assert told == "INFO:tensorflow:steps\n" and not directly
    assert len(calls) % 2 == 0
    assert calls or module is time  # logging asks one of the two, another one in each version of Python
    assert both(handler, "steps")[1]


def test_a_clock_of_loggings_own_is_read(handler):
    clock = mock.Mock(wraps=time)
    with mock.patch.object(logging, "time", clock):
        assert not both(handler, "steps")[1]
    assert len(clock.mock_calls) in (2, 4)
    with mock.patch.object(logging, "time", types.SimpleNamespace(**{  # has not all
            name: getattr(time, name) for name in ("time", "time_ns")[sys.version_info >= (3, 13):][:1]})):
        assert both(handler, "steps") == ("INFO:tensorflow:steps\n", False)


def test_tensorflows_function_that_is_replaced_is_called(handler):
    with mock.patch.object(tf_logging, "info") as info:
        _log_line.info("%s", "steps")
    info.assert_called_once_with("%s", "steps")


@pytest.mark.parametrize("whose", ["logger", "handler"])
def test_filters(logger, handler, whose):
    def filter(record):
        record.msg = record.msg.upper()
        return "STEPS" in record.msg

    owner = logger if whose == "logger" else handler
    with mock.patch.object(owner, "filters", [filter]):
        assert both(handler, "steps") == ("INFO:tensorflow:STEPS\n", False)
        assert both(handler, "loss") == ("", False)


class OwnHandler(logging.StreamHandler):
    pass


class OwnFormatter(logging.Formatter):
    def formatMessage(self, record):
        return f"{record.levelno} {super().formatMessage(record)}"


class OwnFormat(str):
    def __mod__(self, values):
        return f"{values['message']} {len(values) > 3}"


class OwnStyle(logging.PercentStyle):
    pass


@pytest.mark.parametrize("format", ["%(asctime)s", "%(lineno)d", "%(process)d %(message)s", "%(msg)s", "%(args)s"])
def test_formats_with_more_of_the_record(handler, format):
    handler.setFormatter(logging.Formatter(format, datefmt="%Y"))
    text, directly = both(handler, "%s", "steps")
    assert re.fullmatch(r"\d+( steps)?|%s|\('steps',\)", text[:-1]) and not directly


@pytest.mark.parametrize("format", ["%s", "%r", "%s | %(message)s"])
def test_formats_that_show_the_whole_record(handler, format):
    handler.setFormatter(logging.Formatter(format, validate=False))
    texts = []
    for info in (tf_logging.info, _log_line.info):
        handler.stream = Stream()
        info("steps")
        texts.append(re.sub(r"\d+\.?\d*", "N", handler.stream.getvalue()))
    assert texts[0] == texts[1] and "'levelno': N" in texts[1]


def test_a_format_that_looks_as_if_it_used_the_time(handler):
    handler.setFormatter(logging.Formatter("%%(asctime)s %(message)s"))
    with mock.patch.object(handler.formatter, "formatTime") as formats:
        assert both(handler, "steps") == ("%(asctime)s steps\n", False)
    assert len(formats.mock_calls) == 2


def test_handlers_formatters_and_styles_of_others(logger, handler):
    handler.setFormatter(OwnFormatter(FORMAT))
    assert both(handler, "steps") == ("20 INFO:tensorflow:steps\n", False)
    handler.setFormatter(logging.Formatter("{levelname} {message}", style="{"))
    assert both(handler, "steps") == ("INFO steps\n", False)
    handler.setFormatter(logging.Formatter("%(message)s %(more)s", defaults={"more": 1}))
    assert both(handler, "steps") == ("steps 1\n", False)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.formatter._style._defaults = [("more", 1)]  # which logging cannot use
    assert both(handler, "steps") == ("", False)
    handler.setFormatter(logging.Formatter(OwnFormat(FORMAT)))
    assert both(handler, "steps") == ("steps True\n", False)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.formatter._style = OwnStyle(FORMAT)
    assert both(handler, "steps") == ("INFO:tensorflow:steps\n", False)
    logger.handlers[0] = own = OwnHandler(Stream())
    assert both(own, "steps") == ("steps\n", False)


def test_a_logging_that_drops_what_is_logged_while_a_line_is_written():
    """That of Python 3.13.4: its loggers have `_tls`, and it is not ours to set."""
    done = apart.run("""if True:
        import logging, sys
        logging.Logger._tls = None
        import tensorflow as tf
        from fasthooks.output import _log_line

        class Stream:
            def write(self, text):
                print(sys._getframe(1).f_code.co_filename == logging.__file__, text, end="")

        logger = tf.get_logger()
        logger.handlers = [logging.StreamHandler(Stream())]
        logger.setLevel(logging.INFO)
        for _ in range(2):
            _log_line.info("steps")
        """, timeout=60)
    assert done.stdout == "True steps\n" * 2, done.stderr


def test_loggers_of_others(handler):
    class Logger(logging.Logger):
        def handle(self, record):
            record.msg = record.msg.upper()
            super().handle(record)

    logger = Logger("own", logging.INFO)
    logger.findCaller = tf_logging._logger_find_caller
    logger.handlers.append(handler)
    with mock.patch.object(tf_logging, "_logger", logger):
        for _ in range(2):
            assert both(handler, "steps") == ("INFO:own:STEPS\n", False)


def test_what_prints_by_code_of_its_own(handler):
    class Own:
        def __str__(self):
            return "own"

    assert both(handler, "%s", Own()) == ("INFO:tensorflow:own\n", False)
    assert both(handler, Own()) == ("INFO:tensorflow:own\n", False)
    assert both(handler, "%(a)s", {"a": 1}) == ("INFO:tensorflow:1\n", False)


def test_what_cannot_be_formatted_is_told(handler, capsys):
    with mock.patch.object(logging, "raiseExceptions", True):
        assert both(handler, "%d steps", "many") == ("", False)
        handler.setFormatter(logging.Formatter("%(none)s"))
        assert both(handler, "steps") == ("", False)
    assert capsys.readouterr().err.count("--- Logging error ---") == 4


# What happens in a stream


class Failing(Stream):
    def __init__(self, error, when):
        super().__init__()
        self.error = error
        self.when = when

    def after(self, call):
        if call == self.when:
            raise self.error


@pytest.mark.parametrize("when", ["write", "flush"])
def test_an_error_is_told_as_by_logging(handler, capsys, when):
    """Message, arguments and the calls that led to the line; what is above them are logging's own frames."""
    printed = []
    for api in (v1.train, fasthooks):
        hook = api.LoggingTensorHook({"loss": "loss:0"}, every_n_iter=1)
        hook._timer.reset()
        hook._tag_order = ["loss"]
        hook._iter_count = 0
        handler.stream = Failing(OSError("full"), when)
        with mock.patch.object(logging, "raiseExceptions", True):
            hook._log_tensors({"loss": np.float32(1)})
        assert handler.stream.getvalue() == "INFO:tensorflow:loss = 1.0\n"
        assert handler.stream.directly == [api is fasthooks]
        error = capsys.readouterr().err
        assert error.startswith("--- Logging error ---\nTraceback (most recent call last):\n")
        assert "OSError: full\nCall stack:\n" in error
        printed.append(error.partition("Call stack:\n")[2])
    if sys.version_info >= (3, 11):  # before, an exception that is being handled keeps its traceback
        for text in printed:
            assert "in test_an_error_is_told_as_by_logging\n" in text and "in _log_tensors\n" in text
    assert printed[0].splitlines()[-2:] == printed[1].splitlines()[-2:] == ["Message: '%s'", "Arguments: ('loss = 1.0',)"]


def test_a_handlers_own_way_with_errors_has_the_record(handler):
    seen = []
    with mock.patch.object(logging.Handler, "handleError", lambda handler, record: seen.append(record.message)):
        handler.stream = Failing(OSError("full"), "write")
        _log_line.info("%s", "steps")
    assert seen == ["steps"]


def is_free(lock):
    def ask():
        found.append(lock.acquire(blocking=False))
        if found[0]:
            lock.release()

    found = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("error", [RecursionError("deep"), KeyboardInterrupt()])
def test_what_logging_lets_through_leaves_the_handler_free(handler, error):
    handler.stream = Failing(error, "write")
    for info in (tf_logging.info, _log_line.info):
        with pytest.raises(type(error)) as raised:
            info("steps")
        assert raised.value is error
    assert is_free(handler.lock)


def test_locks_of_others(handler):
    lock = mock.MagicMock(wraps=handler.lock)
    with mock.patch.object(handler, "lock", lock):
        assert not both(handler, "steps")[1]
    assert len(lock.mock_calls) % 2 == 0


def test_the_handler_is_locked_while_a_line_is_written(handler):
    free = []

    class Locked(Stream):
        def after(self, call):
            free.append(is_free(handler.lock))

    handler.stream = Locked()
    _log_line.info("steps")
    assert free == [False, False]


def test_streams_that_cannot_be_flushed(handler, capsys):
    class Bare:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

    class Empty(Stream):
        def __len__(self):
            return 0

    handler.stream = bare = Bare()
    _log_line.info("steps")
    assert bare.text == "INFO:tensorflow:steps\n" and capsys.readouterr().err == ""
    handler.stream = empty = Empty()
    _log_line.info("steps")
    assert (empty.directly, empty.flushed) == ([True], 0)  # as logging: a stream that is false is not flushed


# In a session


@pytest.mark.parametrize("written", ["to no files", "to files"])
def test_hooks_of_a_session(logger, tmp_path, written):
    told = []
    for name, api in (("stock", v1.train), ("ours", fasthooks), ("patched", v1.train)):
        directory = str(tmp_path / name) if written == "to files" else None
        with fasthooks.patch() if name == "patched" else contextlib.nullcontext(), tf.Graph().as_default():
            step = v1.train.get_or_create_global_step()
            loss = tf.constant(0.5, name="loss")
            with tf.control_dependencies([training_util._get_or_create_global_step_read(), loss]):
                op = v1.assign_add(step, 1)
            hooks = [api.StepCounterHook(every_n_steps=5, output_dir=directory),
                     api.LoggingTensorHook({"loss": loss}, every_n_iter=5)]
            logger.handlers[:] = [handler_of(Stream())]
            with api.SingularMonitoredSession(hooks) as session:
                for _ in range(21):
                    session.run(op)
        stream = logger.handlers[0].stream
        told.append((re.sub(r"[\d.]+(?= sec|\n)", "N", stream.getvalue()), stream.directly))
    assert "global_step/sec: N\n" in told[0][0] and "loss = 0.5 (N sec)\n" in told[0][0]
    assert told[0][0] == told[1][0] == told[2][0]
    assert told[1][1] == told[2][1] == [line.startswith(("INFO:tensorflow:global_step/sec", "INFO:tensorflow:loss"))
                                        for line in told[1][0].splitlines()]
    assert os.path.isdir(tmp_path / "ours") == (written == "to files")
