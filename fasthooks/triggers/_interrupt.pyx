# cython: language_level=3, embedsignature=True, auto_pickle=False, autotestdict=False
"""The signal that asked for a stop: noted by the process's signal handler, read by the triggers.

The first signal that a hook watches is noted, and nothing else happens: a step in flight goes on, and the triggers find
the note after it. Every further one, and one that no hook watches any more, does what it did before. That is known from
the system, not from Python, whose table of handlers does not show those that C code installed. A handler in Python is
called by Python's own handler, in the main thread, once that is back in Python code; a pipe tells the thread that can
bring it back. Anything else, the default action or a handler in C, is put back and gets the signal again, so that it
ends the process, or runs, whatever the main thread is doing.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from fasthooks.triggers._timer cimport ACT, QUIET, Clock
from fasthooks.triggers._trigger cimport HookTrigger

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <unistd.h>

    #define FH_SIGNALS 65
    static uint64_t fh_watched = 0;                 /* signals that a hook of an open session watches */
    static uint64_t fh_noted = 0;                   /* the first of them that came; 0: none */
    static void (*fh_python)(int) = 0;              /* Python's own handler, one for all signals; 0: not known yet */
    /* What each signal did before, and what it did before that: a handler in C that was installed over ours may pass
       signals on to ours. Zeros are the default action. */
    static struct sigaction fh_before[FH_SIGNALS], fh_below[FH_SIGNALS];
    static volatile sig_atomic_t fh_pipe = -1;              /* gets the number of each signal that was passed on; -1: no pipe */

    static int fh_note(int number) {
        uint64_t none = 0, bit = (uint64_t)1 << (number - 1);
        return (fh_watched & bit) != 0
            && __atomic_compare_exchange_n(&fh_noted, &none, bit, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }

    static int fh_put_back(int number, const struct sigaction *action) {
        if (fh_before[number].sa_handler == action->sa_handler) {
            fh_before[number] = fh_below[number];
            memset(&fh_below[number], 0, sizeof(struct sigaction));
        }
        return sigaction(number, action, NULL);
    }

    static void fh_handle(int number) {
        int saved = errno;
        if (fh_note(number)) {
        } else if (fh_before[number].sa_handler == fh_python) {
            fh_python(number);
            unsigned char byte = (unsigned char)number;
            if (fh_pipe >= 0 && write(fh_pipe, &byte, 1) < 0) {}    /* full: its reader is about to wake */
        } else {
            struct sigaction before = fh_before[number];
            fh_put_back(number, &before);
            raise(number);
            /* The first process of a container is immune to default actions from within. */
            if (before.sa_handler == SIG_DFL && getpid() == 1) _exit(128 + number);
        }
        errno = saved;
    }

    static int fh_read(int number, struct sigaction *action) {
        if (sigaction(number, NULL, action) < 0) return -1;
        if (action->sa_handler == fh_handle) *action = fh_before[number];
        return 0;
    }

    static int fh_is_pythons(const struct sigaction *action) {
        if (fh_python) return action->sa_handler == fh_python;
        return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
    }

    static int fh_take(int number, const struct sigaction *before) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) < 0) return -1;
        if (action.sa_handler != fh_handle) {
            fh_python = action.sa_handler;
            action.sa_handler = fh_handle;      /* the flags stay Python's: blocking calls are interrupted */
        }
        if (fh_before[number].sa_handler != before->sa_handler) {
            fh_below[number] = fh_before[number];
            fh_before[number] = *before;
        }
        return sigaction(number, &action, NULL);
    }

    static int fh_is_overridden(int number) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) < 0) return -1;
        return action.sa_handler != fh_handle && action.sa_handler != fh_python;
    }
    """
    ctypedef struct sigaction_t "struct sigaction":
        void (*sa_handler)(int) noexcept nogil
    void (*SIG_IGN)(int) noexcept nogil
    uint64_t fh_watched
    uint64_t fh_noted
    int fh_pipe
    bint fh_note(int number) noexcept nogil
    int fh_put_back(int number, const sigaction_t* action) noexcept nogil
    int fh_read(int number, sigaction_t* action) noexcept nogil
    bint fh_is_pythons(const sigaction_t* action) noexcept nogil
    int fh_take(int number, const sigaction_t* before) noexcept nogil
    int fh_is_overridden(int number) noexcept nogil


cdef class Action:
    """What the system does on a signal, as it is when this is made; without us, where the compiled handler stands.

    Raises:
      OSError: The system has no such signal.
    """
    cdef int number
    cdef sigaction_t action

    def __cinit__(self, int number):
        self.number = number
        _check(number, fh_read(number, &self.action))

    @property
    def is_ignored(self):
        return self.action.sa_handler == SIG_IGN

    @property
    def is_pythons(self):
        """Whether Python calls what stands in its own table."""
        return fh_is_pythons(&self.action)

    def put_back(self):
        """Makes the system do it again."""
        _check(self.number, fh_put_back(self.number, &self.action))


cdef int _check(int number, int result) except -1:
    if result < 0:
        raise OSError(f"Signal {number} cannot be handled.")
    return result


def take(int number, Action before not None):
    """Puts the compiled handler before Python's own, which must be installed for the signal.

    Args:
      number: The signal.
      before: What it did before, and does when it is not noted.

    Raises:
      OSError: The system refuses.
    """
    _check(number, fh_take(number, &before.action))


def is_overridden(int number):
    """Whether C code has installed something over the handlers that `take` left."""
    return bool(_check(number, fh_is_overridden(number)))


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
    """Acts before the session's first step, and once a signal was noted that the hook watches."""

    cdef tuple watched_fields(self):
        return ("received",)

    cdef int before(self, PyObject* fields, Clock* clock) except -1:
        return QUIET if self.opening is None else ACT

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
