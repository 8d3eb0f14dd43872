"""Runs the programs of `cluster_programs.py` as real processes on this machine, on TensorFlow and on fasthooks, and compares.

    python bench/clusters.py                         all cases in all ways (about 5 minutes); exit code 1 if one differs
    python bench/clusters.py --only in_graph,mirrored --ways ours,command

Ways: sessions and hooks of fasthooks ("ours"), TensorFlow's sessions with hooks of fasthooks ("adopted"), all TensorFlow's
under `fasthooks.patch()` ("patched"), and `python -m fasthooks run` on every task ("command"). Each case runs with the stock
hooks, and with a hook in plain Python beside them. What tasks tell at their ends must be what they tell on TensorFlow alone,
and each step must have taken its plan. Killed and restarted tasks are in `tests/test_distributed.py`.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: an installed fasthooks is found first

from bench import cluster_programs  # noqa: E402

LIMIT_SECS = 120  # for one run of one case
WAYS = ("ours", "adopted", "patched", "command")
PROGRAM = os.path.join(ROOT, "bench", "cluster_programs.py")

# Forked from one that has imported TensorFlow and run nothing, processes start in a tenth of the time. Elsewhere than on
# Linux, system libraries do not take that well.
processes = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if processes.get_start_method() == "forkserver":
    processes.set_forkserver_preload(["tensorflow"])


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and its cluster.

    Attributes:
      program: one of `cluster_programs.PROGRAMS`.
      jobs: how many tasks each job has; none: one process without a cluster.
      servers: tasks that only serve, and go on until they are ended.
      options: further fields of `cluster_programs.Task`.
      needs: an attribute of `tensorflow` without which there is nothing to run.
    """

    program: str
    jobs: dict = dataclasses.field(default_factory=dict)
    servers: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    needs: str = ""

    def tasks(self):
        return [(job, index) for job, count in (self.jobs or {"chief": 1}).items() for index in range(count)]


TWO_PS = {"ps": 2, "chief": 1, "worker": 2}
CASES = {
    "resource_variables": Case("between_graph", TWO_PS, ("ps",)),
    "reference_variables": Case("between_graph", TWO_PS, ("ps",), {"variables": "reference"}),
    "partitioned_variables": Case("between_graph", TWO_PS, ("ps",), {"variables": "partitioned"}),
    "sync_replicas": Case("sync_replicas", TWO_PS, ("ps",)),
    "in_graph": Case("in_graph", {"worker": 2}, ("worker1",)),
    "mirrored": Case("mirrored"),
    "multi_worker": Case("multi_worker", {"worker": 2}),
    "estimator": Case("estimator", {"ps": 1, "chief": 1, "worker": 1, "evaluator": 1}, ("ps",), needs="estimator"),
}


class Different(Exception):
    """A case did not end, or did not tell what it tells on TensorFlow."""


@contextlib.contextmanager
def _addresses(jobs):
    """Addresses of all tasks. The ports are held until the end, so that nobody else is given one."""
    with contextlib.ExitStack() as stack:
        found = {}
        for job, count in jobs.items():
            held = [stack.enter_context(socket.socket()) for _ in range(count)]
            for one in held:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.bind(("localhost", 0))
            found[job] = [f"localhost:{one.getsockname()[1]}" for one in held]
        yield found


def _end_with(connection):
    # Whoever started this process has gone, or wants it to go. Nothing less ends a server.
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(0)


def _in_process(connection, program, way, fields, log):
    """Runs one task in a process made for it, and tells what it tells."""
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["TF_GRPC_REUSE_PORT"] = "1"  # the ports are held
    import tensorflow as tf
    from tensorflow.python.training import session_manager

    tf.compat.v1.disable_eager_execution()
    stock = tf.compat.v1.train
    task = cluster_programs.Task(**fields)
    totals = None
    if way != "stock":
        import fasthooks
        from fasthooks.step import _plan

        totals = _plan.totals
        sessions = {"MonitoredTrainingSession": stock.MonitoredTrainingSession} if way == "adopted" else {}
        task.train = stock if way == "patched" else types.SimpleNamespace(**{
            **{name: getattr(fasthooks, name) for name in dir(fasthooks) if not name.startswith("_")}, **sessions})
        if way == "patched":
            fasthooks.patch()
    # TensorFlow looks only every 30 seconds whether the chief has got the model ready.
    often = functools.partial(session_manager.SessionManager, recovery_wait_secs=0.2)
    with mock.patch.object(session_manager, "SessionManager", often):
        told = cluster_programs.PROGRAMS[program](task)
    # As what comes from a command has been: through JSON.
    connection.send({"told": json.loads(json.dumps(told)), "runs": totals and totals()})
    os._exit(0)


class _Forked:
    def __init__(self, case, way, fields, log):
        self.connection, theirs = processes.Pipe()
        self.process = processes.Process(target=_in_process, args=(theirs, case.program, way, fields, log), daemon=True)
        self.process.start()
        theirs.close()

    def poll(self):
        """Returns what the task told; None: it is not yet there.

        Raises:
          Different: it ended without a word.
        """
        if not self.connection.poll():
            return None
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise Different("ended without telling anything") from None

    def end(self):
        self.connection.close()
        self.process.kill()
        self.process.join()


class _Command:
    # The program as its users start it.

    def __init__(self, case, way, fields, log):
        self.log = log
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fasthooks", "run", "--report", PROGRAM, case.program, json.dumps(fields)],
                stdout=subprocess.PIPE, stderr=file, text=True, cwd=ROOT,
                env={**os.environ, "TF_GRPC_REUSE_PORT": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
                     "PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))})

    def poll(self):
        if self.process.poll() is None:
            return None
        if self.process.returncode:
            raise Different(f"ended with exit code {self.process.returncode}")
        told = json.loads(self.process.stdout.read().strip().splitlines()[-1])
        reported = pathlib.Path(self.log).read_text(errors="replace")
        steps, planned = re.search(r"fasthooks: ([\d,]+) steps, ([\d,]+) of them", reported).groups()
        declined = dict(re.findall(r"fasthooks: ([\d,]+) took TensorFlow's own way: (.*)", reported))
        return {"told": told, "runs": {"steps": int(steps.replace(",", "")), "planned_steps": int(planned.replace(",", "")),
                                       "declined": {reason: number for number, reason in declined.items()}}}

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def run(case, way, directory, limit_secs=LIMIT_SECS, **options):
    """Runs one case in one way ("stock" or one of WAYS) to its end; returns what each trainer told, by task.

    Args:
      case: a Case.
      way: see above.
      directory: where all write.
      limit_secs: seconds until all that still runs is killed.
      options: fields of `cluster_programs.Task`, such as `python_hook`.

    Raises:
      Different: a task failed or was too slow; the message has the ends of all logs.
    """
    make = _Command if way == "command" else _Forked
    os.makedirs(os.path.join(directory, "logs"))
    waiting, told, started = {}, {}, []
    limit = time.monotonic() + limit_secs
    with contextlib.ExitStack() as stack:
        addresses = stack.enter_context(_addresses(case.jobs))
        pending = case.tasks()
        try:
            while pending or waiting:
                for job, index in list(pending):
                    # A worker that finds no model looks for one only every 30 seconds. The chief of an estimator waits for it.
                    saved = os.path.exists(os.path.join(directory, "saved", "checkpoint"))
                    waits = job == "worker" and "chief" in case.jobs and case.program != "estimator" and way == "command"
                    if saved or not waits:
                        pending.remove((job, index))
                        fields = {"cluster": addresses, "job": job, "index": index, "dir": os.path.join(directory, "saved"),
                                  **case.options, **options}
                        task = make(case, way, fields, os.path.join(directory, "logs", f"{job}{index}"))
                        started.append(task)
                        stack.callback(task.end)
                        if job not in case.servers and f"{job}{index}" not in case.servers:
                            waiting[f"{job}{index}"] = task
                for name, task in list(waiting.items()):
                    found = task.poll()
                    if found is not None:
                        told[name] = found
                        del waiting[name]
                if time.monotonic() > limit:
                    raise Different(f"after {limit_secs} s no end of {', '.join(waiting)}")
                time.sleep(0.02)
        except Different as error:
            logs = [f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}"
                    for path in sorted(pathlib.Path(directory, "logs").iterdir())]
            raise Different("\n".join([str(error), *logs])) from None
    return told


def check(ours, stock):
    """Compares what `run` returned.

    Raises:
      Different: something was told otherwise, or a step took TensorFlow's own way.
    """
    # Who waits for gradients of the others may make a run for them.
    mine, theirs = [sum(one["told"].get("runs", 0) for one in told.values()) for told in (ours, stock)]
    if mine != theirs:
        raise Different(f"{mine} runs were made, on TensorFlow {theirs}")
    for name in stock:
        for key, value in stock[name]["told"].items():
            if key != "runs" and ours[name]["told"][key] != value:
                raise Different(f"{name} tells of {key} {ours[name]['told'][key]!r:.500}, on TensorFlow {value!r:.500}")
        runs = ours[name]["runs"]
        if runs["declined"] or runs["planned_steps"] != runs["steps"] or not (runs["steps"] or name.startswith("evaluator")):
            raise Different(f"{name}: not every step took a plan: {runs}")
    workers = [one["told"]["decisions"] for name, one in ours.items() if "collective" in one["told"]]
    if workers[1:] != workers[:-1]:
        raise Different(f"workers that wait for each other fetched otherwise: {workers}")


def main(argv=None):
    import tensorflow as tf

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="comma-separated cases")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated ways")
    args = parser.parse_args(argv)
    failed = 0
    print(f"{'case':24}{'hooks':16}{'way':10}{'seconds':>8}  result")
    for name in args.only.split(","):
        case = CASES[name]
        if case.needs and not hasattr(tf, case.needs):
            print(f"{name:24}{'':16}{'':10}{'':8}  not available: this TensorFlow has no tf.{case.needs}")
            continue
        for python_hook in (False, True):
            stock = None
            for way in ("stock", *args.ways.split(",")):
                begin = time.perf_counter()
                with tempfile.TemporaryDirectory(prefix="fasthooks-clusters-", ignore_cleanup_errors=True) as directory:
                    try:
                        told = run(case, way, directory, python_hook=python_hook)
                        if way == "stock":
                            stock = told
                        else:
                            check(told, stock)
                        result = "pass"
                    except Different as error:
                        result = f"FAIL: {error}"
                        failed += 1
                hooks = "and one Python" if python_hook else "stock"
                print(f"{name:24}{hooks:16}{way:10}{time.perf_counter() - begin:8.1f}  {result}", flush=True)
                if stock is None:
                    break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
