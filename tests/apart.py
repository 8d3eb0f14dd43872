"""Programs in processes of their own that start at once: forked from one that has TensorFlow imported and has run nothing.

An import of TensorFlow takes seconds, and many tests want a process that may crash, hang or be killed, or whose end is what is
looked at. Such a process is one of `python -c` in all else: it has its own `__main__`, imports what it wants, fasthooks too, and
ends as the interpreter does, where a process of multiprocessing's forkserver would leave without that. As far as the program and
finders of modules can see, TensorFlow is imported when the program imports it. What the interpreter and TensorFlow read of the
environment when they start (PYTHONUNBUFFERED, TF_CPP_MIN_LOG_LEVEL) is the tests' own.
"""

import atexit
import ctypes
import functools
import gc
import importlib.machinery
import json
import os
import signal
import socket
import subprocess
import sys
import types

_PR_SET_CHILD_SUBREAPER = 36  # of <sys/prctl.h>


class Process(subprocess.Popen):
    """`subprocess.Popen` of `[sys.executable, "-c", code, *arguments]`; elsewhere than on Linux, just that.

    Args:
      code: The program's text.
      arguments: What it finds in `sys.argv` from index 1 on.
      options: `stdin`, `stdout`, `stderr`, `text`, `cwd`, `env` as for `subprocess.Popen`.
    """

    def __init__(self, code, *arguments, **options):
        super().__init__([sys.executable, "-c", code, *map(str, arguments)], **options)

    if sys.platform == "linux":

        def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                           *rest):
            pipes = rest[:6]
            files = [default if pipes[i] == -1 else pipes[i] for i, default in ((0, 0), (3, 1), (5, 2))]
            request = {"argv": args[1:], "cwd": os.fspath(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
            server = _server()
            prctl = ctypes.CDLL(None).prctl
            # A process whose parent has ended becomes a child of this one, which can wait for it then.
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(server, [json.dumps(request).encode()], files)
                self.pid = int(server.recv(20))
            finally:
                prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
            self._child_created = True
            self._close_pipe_fds(*pipes)


def run(code, *arguments, timeout, **options):
    """Runs a program to its end; returns a `subprocess.CompletedProcess` with all it has written, as text.

    Args:
      timeout: Seconds until it is killed and `subprocess.TimeoutExpired` is raised.
      code, arguments, options: As for `Process`.
    """
    with Process(code, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def python(*arguments):
    """What `Process` and `run` take for `python script [...]` and `python -m module [...]`."""
    if arguments[0] == "-m":
        return f"import runpy; runpy.run_module({arguments[1]!r}, run_name='__main__', alter_sys=True)", *arguments[2:]
    return "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')", *arguments


@functools.cache
def _server():
    # The channel to the process that forks; that one ends when the channel is closed, as it is when this process is killed.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @atexit.register
    def end():
        ours.close()
        process.wait()

    return ours


class _ImportAtOnce:
    # Finds and loads a module that is imported already, as if it were not.

    def __init__(self, module):
        self.module = module
        self.own = module.__spec__, module.__loader__

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == self.module.__name__ else None

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__, module.__loader__ = self.own
        sys.meta_path.remove(self)


def _serve(channel):
    """Forks a process for each request that comes; returns in them alone, with what is to be run."""
    import tensorflow  # noqa: F401

    gc.freeze()  # what the collector looks at, as it does in the end, is copied; so TensorFlow's own objects are not
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is for the tests
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            os._exit(0)
        told, tell = os.pipe()
        parent = os.fork()
        if not parent:
            child = os.fork()
            if child:
                os.write(tell, str(child).encode())
                os._exit(0)
            break
        os.waitpid(parent, 0)
        channel.send(os.read(told, 20))
        for descriptor in (told, tell, *descriptors):
            os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in (told, tell, *descriptors, channel.detach()):
        os.close(descriptor)
    request = json.loads(message)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[:] = ["-c", *request["argv"][2:]]
    sys.meta_path.insert(0, _ImportAtOnce(sys.modules.pop("tensorflow")))
    return request["argv"][1]


if __name__ == "__main__":
    _code = compile(_serve(socket.socket(fileno=int(sys.argv[1]))), "<string>", "exec")
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(_code, sys.modules["__main__"].__dict__)
