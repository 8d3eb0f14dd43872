# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""The signal that asked for a stop: noted by the process's signal handler, read by the triggers.

The first signal that a hook watches is noted, and nothing else happens: a step in flight goes on, and the triggers find
the note after it. Every further one, and one that no hook watches any more, does what it did before: the default action
ends the process from within the handler, whatever the main thread is doing; a handler in Python is called by Python's
own handler, in the main thread, once that is back in Python code. A pipe tells the thread that can bring it back.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from fasthooks._timer cimport ACT, QUIET, Clock
from fasthooks._trigger cimport HookTrigger

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <stdint.h>
    #include <unistd.h>

    #define FH_SIGNALS 65
    static uint64_t fh_watched = 0;                 /* signals that a hook of an open session watches */
    static uint64_t fh_noted = 0;                   /* the first of them that came; 0: none */
    static void (*fh_python[FH_SIGNALS])(int);      /* Python's own handler, to pass signals on to */
    static volatile sig_atomic_t fh_ends[FH_SIGNALS];       /* without us the signal has its default action */
    static volatile sig_atomic_t fh_pipe = -1;              /* gets the number of each signal that was passed on; -1: no pipe */

    static int fh_note(int number) {
        uint64_t none = 0, bit = (uint64_t)1 << (number - 1);
        return (fh_watched & bit) != 0
            && __atomic_compare_exchange_n(&fh_noted, &none, bit, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }

    static void fh_handle(int number) {
        int saved = errno;
        if (fh_note(number)) {
        } else if (fh_ends[number]) {
            signal(number, SIG_DFL);
            raise(number);
            /* The first process of a container is immune to default actions from within. */
            if (getpid() == 1) _exit(128 + number);
        } else {
            fh_python[number](number);
            unsigned char byte = (unsigned char)number;
            if (fh_pipe >= 0 && write(fh_pipe, &byte, 1) < 0) {}    /* full: its reader is about to wake */
        }
        errno = saved;
    }

    static int fh_take(int number, int ends) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) < 0) return -1;
        if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) return -1;      /* not Python's */
        if (action.sa_handler != fh_handle) {
            fh_python[number] = action.sa_handler;
            action.sa_handler = fh_handle;      /* the flags stay Python's: blocking calls are interrupted */
        }
        fh_ends[number] = ends;
        return sigaction(number, &action, NULL);
    }
    """
    uint64_t fh_watched
    uint64_t fh_noted
    int fh_pipe
    bint fh_note(int number) noexcept nogil
    int fh_take(int number, bint ends) noexcept nogil


def take(int number, bint ends):
    """Puts the compiled handler before Python's own, which must be installed for the signal.

    Args:
      number: The signal.
      ends: Whether it has its default action when it is not noted.

    Raises:
      OSError: The system refuses.
    """
    if fh_take(number, ends) < 0:
        raise OSError(f"Signal {number} cannot be handled.")


def watch(numbers):
    """Tells which signals the hooks of open sessions watch, by a set of numbers. None: what was noted is forgotten."""
    global fh_watched, fh_noted
    cdef uint64_t mask = _mask(numbers)
    fh_watched = mask
    if mask == 0:
        fh_noted = 0


def wake_through(int pipe):
    """Sets the file descriptor that gets the number, as a byte, of each signal passed on to Python; -1: none does."""
    global fh_pipe
    fh_pipe = pipe


def note(int number):
    """Notes a signal as the handler does. Returns False if it is to do what it did before."""
    return bool(fh_note(number))


cdef uint64_t _mask(numbers) except? 0:
    cdef uint64_t mask = 0
    for number in numbers:
        mask |= <uint64_t>1 << <int>(number - 1)
    return mask


cdef int _number(uint64_t bit) noexcept:
    cdef int number = 0
    while bit:
        bit >>= 1
        number += 1
    return number


cdef class InterruptTrigger(HookTrigger):
    """Acts once a signal was noted that the hook watches."""

    cdef tuple watched_fields(self):
        return ("received",)

    cdef int after(self, PyObject* fields, PyObject* value, Clock* clock) except -1:
        return ACT if fh_noted & self.mask or self.received is not None else QUIET

    def look_for(self, numbers):
        """Sets the signals, a set of numbers, that the trigger acts on."""
        self.mask = _mask(numbers)

    def was_interrupted(self):
        """Puts the signal that was noted, if the hook watches it, into `received`. Returns whether there is one."""
        if self.received is None and fh_noted & self.mask:
            self.received = _number(fh_noted)
        return self.received is not None
