"""Measurements that need a process of their own. Started by `budgets.py`: `python bench/workers.py NAME JSON_ARGUMENTS`.

Each prints one JSON object as the last line of its output, but for `server`, which answers lines until its input is closed.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start(name, arguments=None, **options):
    """Starts the worker `name` in a process of its own, whose output is a pipe; `options` are those of `Popen`."""
    command = [sys.executable, os.path.abspath(__file__), name, json.dumps(arguments or {})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def call(name, **arguments):
    """Runs a worker to its end and returns the object it printed."""
    process = start(name, arguments, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"worker {name} failed with {process.returncode}:\n{errors[-3000:]}")
    return json.loads(output.strip().splitlines()[-1])


@contextlib.contextmanager
def listening(name, **arguments):
    """A worker that goes on until its input is closed; yields a function that returns the next line that it prints."""
    process = start(name, arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def ask():
        answer = process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the worker {name} does not answer; run `python bench/workers.py {name}` to see why")
        return answer

    try:
        yield ask
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextlib.contextmanager
def parameter_servers(count):
    """A cluster of parameter servers in processes of their own and a chief in this one; yields it and the chief's target."""
    import tensorflow as tf

    with contextlib.ExitStack() as stack:
        # Held until the servers have them, so that no two get the same.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count + 1)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("localhost", 0))
        *servers, chief = [f"localhost:{one.getsockname()[1]}" for one in sockets]
        jobs = {"ps": servers, "chief": [chief]}
        asked = [stack.enter_context(listening("parameter_server", jobs=jobs, index=i)) for i in range(count)]
        os.environ["TF_GRPC_REUSE_PORT"] = "1"
        cluster = tf.train.ClusterSpec(jobs)
        target = tf.distribute.Server(cluster, "chief", 0).target
        for ask in asked:
            ask()
        yield cluster, target


# ----------------------------------------------------------------------------------------------------------------------
# Workers


def _rss_mib():
    """Resident memory of this process in MiB, after giving back to the system what the allocator holds in reserve."""
    import ctypes
    import gc
    import resource

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim:
        trim(0)
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


def rss_steps(ours, begin, end):
    """Resident memory at step `begin` and at step `end` of the tiny graph with H8; then of as many with a profile in force."""
    from bench import common

    impl = common.implementation(ours)
    with (
        common.workspace(wandb=True) as directory,
        common.monitored_lane(impl, common.tiny, common.hooks_h8, directory) as lane,
    ):
        lane.run(begin)
        first = _rss_mib()
        seconds = lane.run(end - begin) / 1e9
        last = _rss_mib()
        with impl.profile() as profiled:
            lane.run(begin)
            profiled_first = _rss_mib()
            lane.run(end - begin)
            profiled_last = _rss_mib()
        turns = 0 if profiled is None else sum(session["turns"] for session in profiled.report()["sessions"])
        return {"first_mib": first, "last_mib": last, "us_per_step": seconds * 1e6 / (end - begin),
                "profiled_first_mib": profiled_first, "profiled_last_mib": profiled_last, "turns": turns}


def rss_fetch_sets(ours, count):
    """Resident memory after a quarter, half and all of `count` distinct fetch sets, each run three times, with H8."""
    from bench import common

    impl = common.implementation(ours)
    bits = max(count - 1, 1).bit_length()

    def build():
        model = common.tiny()
        model.extra = [common.tf.constant(float(i)) for i in range(bits)]
        return model

    with (
        common.workspace(wandb=True) as directory,
        common.monitored_lane(impl, build, common.hooks_h8, directory) as lane,
    ):
        session, model = lane.session, lane.model
        marks = {count // 4: 0.0, count // 2: 0.0, count: 0.0}
        with lane.graph.as_default():
            for number in range(count):
                chosen = [tensor for i, tensor in enumerate(model.extra) if number >> i & 1]
                for _ in range(3):
                    session.run([model.train_op, *chosen])
                if number + 1 in marks:
                    marks[number + 1] = _rss_mib()
        return {"quarter_mib": marks[count // 4], "half_mib": marks[count // 2], "all_mib": marks[count]}


def import_time(module):
    """Milliseconds to import `module` and to touch each of its public names, TensorFlow being imported before."""
    import importlib

    import tensorflow  # noqa: F401

    sys.dont_write_bytecode = False  # whatever the environment says: an installed package has its bytecode
    begin = time.perf_counter()
    package = importlib.import_module(module)
    imported = time.perf_counter()
    each = {}
    for name in getattr(package, "__all__", None) or dir(package):
        start = time.perf_counter()
        getattr(package, name)
        each[name] = (time.perf_counter() - start) * 1e3
    end = time.perf_counter()
    slowest = max(each, key=each.get)
    return {
        "import_ms": (imported - begin) * 1e3,
        "names_ms": (end - imported) * 1e3,
        "total_ms": (end - begin) * 1e3,
        "names": len(each),
        "slowest_name": slowest,
        "slowest_ms": each[slowest],
    }


def server():
    """A gRPC server on localhost, on a free port; lives until standard input is closed."""
    import tensorflow as tf

    started = tf.distribute.Server.create_local_server()
    print(started.target.decode() if isinstance(started.target, bytes) else started.target, flush=True)
    sys.stdin.read()
    os._exit(0)  # the server has no way to be stopped and joined


def parameter_server(jobs, index):
    """A parameter server of a cluster; lives until standard input is closed."""
    os.environ["TF_GRPC_REUSE_PORT"] = "1"
    import tensorflow as tf

    tf.distribute.Server(tf.train.ClusterSpec(jobs), "ps", index)
    print("listens", flush=True)
    sys.stdin.read()
    os._exit(0)


WORKERS = {worker.__name__: worker for worker in (rss_steps, rss_fetch_sets, import_time, server, parameter_server)}

if __name__ == "__main__":
    outcome = WORKERS[sys.argv[1]](**json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
    print(json.dumps(outcome))
