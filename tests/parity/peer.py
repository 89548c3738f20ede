"""Layers that others wrote, in a process of their own: they need another framework, or another Keras, than the tests.

A test sends arrays and weights by an `.npz` file and gets the output back; the worker script stays up for all tests of a file.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


def needs(*packages):
    """Skips the test where one of the packages is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra: parity)")


class Peer:
    """A worker process: `peer(case, **arrays)` is the output of one of the functions that its script serves.

    Args:
        worker: name of the script in this folder, without `.py`.
        folder: for the arrays and the log.
        **environment: variables set for the worker.
    """

    def __init__(self, worker, folder, **environment):
        self.folder, self.count = folder, 0
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.log = open(folder / "worker.log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.parity.{worker}"],
            env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def __call__(self, case, **arrays):
        self.count += 1
        request = {"case": case, "arrays": str(self.folder / f"{self.count}.npz"), "result": str(self.folder / f"{self.count}.npy")}
        np.savez(request["arrays"], **{name: np.asarray(array) for name, array in arrays.items()})
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        assert answer, f"the worker ended: {self._end_of_log()}"
        error = json.loads(answer)
        assert error is None, error
        return np.load(request["result"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def _end_of_log(self):
        self.process.wait()
        self.log.seek(0)
        return self.log.read()[-3000:]


def serve(cases):
    """Runs in the worker: answers requests until the input ends. Every case takes arrays by name and returns one."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        request, error = json.loads(line), None
        try:
            with np.load(request["arrays"]) as arrays:
                result = cases[request["case"]](**arrays)
            np.save(request["result"], result)
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        print(json.dumps(error), file=answers, flush=True)
