"""Searches in several processes: a chief that holds the oracle, and workers that train, by KerasTuner's own gRPC protocol.

`python -m tuning.workers FOLDER` is one worker of a search; it finds the chief by the environment variables KERASTUNER_TUNER_ID,
KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT. `search(..., workers=N)` starts N of them on this machine.
"""

import concurrent.futures
import contextlib
import copy
import dataclasses
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError

from tuning.oracles import IDLE, STOPPED, make_oracle
from tuning.settings import Draw, explore, load_settings
from tuning.trials import COMPLETED, TrialRunner

THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
TUNER_ID, ORACLE_IP, ORACLE_PORT = "KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"
LOGS = "logs"
_PAUSE = 0.2


class TrialTuner(BaseTuner):
    """KerasTuner's tuner around a `TrialRunner`; its own state is none, the oracle's is in `tuning.oracles`.

    Args:
        oracle: Oracle of `tuning.oracles`.
        folder: Folder of the search.
        runner: `TrialRunner`.
        report: Called with the record of every trial that this tuner ran.
    """

    def __init__(self, oracle, folder, runner, report=None):
        self.runner, self.report = runner, report
        folder = Path(folder).resolve()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it reloads, where results are printed
            super().__init__(oracle, directory=str(folder.parent), project_name=folder.name)

    def search(self):
        """Runs trials until the oracle has no more."""
        while True:
            trial = self.oracle.create_trial(self.tuner_id)
            if trial.status == STOPPED:
                return
            if trial.status == IDLE:
                time.sleep(_PAUSE)
                continue
            self._try_run_and_update_trial(trial)
            self.oracle.end_trial(_bare(trial))

    def run_trial(self, trial, *_, **__):
        """Trains a trial; a failed one is raised, which is how KerasTuner learns of it."""
        record = self.runner.run(trial.trial_id, trial.hyperparameters)
        if self.report is not None:
            self.report(record)
        if record["status"] != COMPLETED:
            raise FailedTrialError(record["error"]["traceback"] or record["error"]["message"])
        return {self.oracle.objective.name: record["objective"]}

    def _try_run_and_update_trial(self, trial, *_, **__):
        """As KerasTuner's, which prints the traceback of every trial that fails, wherever results are printed."""
        try:
            self._run_and_update_trial(trial)
            trial.status = "COMPLETED"
        except FailedTrialError as error:
            trial.status, trial.message = "FAILED", str(error)

    def save(self):
        """The oracle saves itself at every change."""

    def reload(self):
        """The oracle is read before the tuner is made."""

    def _get_tuner_fname(self):
        return os.path.join(self.project_dir, "no-tuner-file")


class _Wire:
    """An oracle as the server gives it to workers: trials without their space."""

    def __init__(self, oracle):
        self._oracle = oracle

    def create_trial(self, *arguments):
        return _bare(self._oracle.create_trial(*arguments))

    def update_trial(self, *arguments, **options):
        return _bare(self._oracle.update_trial(*arguments, **options))

    def get_trial(self, *arguments):
        return _bare(self._oracle.get_trial(*arguments))

    def __getattr__(self, name):
        return getattr(self._oracle, name)


def _bare(trial):
    """Returns a trial with its values alone, which is all that either side needs.

    KerasTuner 1.4.8 prints a line for every condition of a space that it sends (`Parent.to_proto` in `engine/conditions.py`), among the
    results of whoever prints some.
    """
    trial = copy.copy(trial)
    values = trial.hyperparameters.values
    trial.hyperparameters = type(trial.hyperparameters)()
    trial.hyperparameters.values = dict(values)
    return trial


def environment():
    """Returns `(id, address)` of this process among several, or `(None, None)`.

    Raises:
        ValueError: If only some of the three variables are set.
    """
    given = {name: os.environ.get(name) for name in (TUNER_ID, ORACLE_IP, ORACLE_PORT)}
    if not given[ORACLE_IP] and not given[ORACLE_PORT]:
        return None, None
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ValueError(f"the environment variable {missing[0]} is not set; several machines need {', '.join(given)}")
    return given[TUNER_ID], f"{given[ORACLE_IP]}:{given[ORACLE_PORT]}"


def serve(oracle, folder, workers, *, address=None, most_deaths=10):
    """Holds the oracle until the search is over.

    Args:
        oracle: Oracle of `tuning.oracles`.
        folder: Folder of the search.
        workers: Processes to start on this machine.
        address: `"ip:port"` that workers elsewhere know; None for a free port of this machine alone.
        most_deaths: Workers that may die before the search is given up.

    Raises:
        RuntimeError: If workers keep dying, with the end of the last one's log; the oracle's own error if it fails.
    """
    import grpc
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    # One thread: what a request raises leaves the oracle's lock with that thread, and the next request has it again.
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=1))
    servicer = OracleServicer(_Wire(oracle))
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    port = server.add_insecure_port(address or "127.0.0.1:0")
    ip = address.rpartition(":")[0] if address else "127.0.0.1"
    server.start()
    local, names, deaths = {}, iter(range(10_000)), 0
    try:
        for _ in range(workers):
            name = f"local{next(names)}"
            local[name] = _start(folder, name, ip, port)
        while not _is_over(oracle, servicer, local, elsewhere=address is not None):
            time.sleep(_PAUSE)
            if oracle.fatal is not None:
                raise oracle.fatal
            for name, process in list(local.items()):
                code = process.poll()
                if code is None:
                    continue
                del local[name]
                if code == 0:
                    continue
                deaths += 1
                oracle.worker_died(name)
                if deaths >= most_deaths:
                    raise RuntimeError(f"{deaths} workers died; the last one, {name}, with {code}: {_end_of_log(folder, name)}")
                name = f"local{next(names)}"
                local[name] = _start(folder, name, ip, port)
    finally:
        for process in local.values():
            process.kill()
        for process in local.values():
            process.wait()
        server.stop(None).wait()


def _is_over(oracle, servicer, local, *, elsewhere):
    if not elsewhere:
        return not local
    return not local and servicer.stop_triggered and not oracle.ongoing_trials and not oracle.tuner_ids


def _start(folder, name, ip, port):
    """Starts a worker of one thread. It ends when its standard input does, that is with this process, however this one ends."""
    variables = {TUNER_ID: name, ORACLE_IP: ip, ORACLE_PORT: str(port), "no_grpc_proxy": ip, **dict.fromkeys(THREADS, "1")}
    path = os.pathsep.join(dict.fromkeys(p or os.getcwd() for p in sys.path))
    log = Path(folder) / LOGS / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tuning.workers", str(folder)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**os.environ, **variables, "PYTHONPATH": path},
        )


def _end_of_log(folder, name, lines=5):
    text = (Path(folder) / LOGS / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
    return " | ".join(text.splitlines()[-lines:]) or "its log is empty"


def oracle_of(folder, settings, budget, draw, objective, *, max_failures=5, listener=None):
    """Returns the oracle of a search, with its state if it has one."""
    from keras_ctr.cli.runs import RunConfig

    epochs = settings.fixed.get("epochs", RunConfig.epochs)
    if settings.algorithm == "hyperband":
        settings = _with_options(settings, {"max_epochs": epochs, "hyperband_iterations": 1 if budget.unlimited else None})
    if settings.algorithm == "bayesian":
        space = explore(draw)
        dimensions = 3 * len(space.space)
        few = dimensions if budget.trials is None else min(dimensions, budget.trials // 3)
        settings = _with_options(settings, {"num_initial_points": max(3, few)})
    oracle = make_oracle(settings, objective, explore(draw), settings.seed % 2**31 + 1)
    return oracle.prepare(folder, budget, epochs, max_failures=max_failures, listener=listener)


def _with_options(settings, defaults):
    return dataclasses.replace(settings, options={**defaults, **settings.options})


def work(folder, *, progress=None, report=None, draw=None):
    """Runs trials of a search for its chief, as the environment variables say."""
    settings, budget = load_settings(folder)
    draw = draw or Draw(settings)
    runner = TrialRunner(folder, settings, draw, worker=os.environ[TUNER_ID], progress=progress)
    oracle = oracle_of(folder, settings, budget, draw, runner.objective)
    TrialTuner(oracle, folder, runner, report).search()


def _end_with(pipe):
    """Ends this process at once when a pipe from its parent closes: an orphan must not go on with a trial that a new search repeats."""

    def wait():
        while os.read(pipe, 1024):  # not through sys.stdin, whose lock this thread would hold when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _end_with(sys.stdin.fileno())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    work(sys.argv[1])
