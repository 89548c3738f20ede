"""How the parent and a worker talk: one JSON object a line, over the worker's stdin and stdout. Standard library only.

The worker writes `{"event": "ready", ...}` when its model stands, or `{"event": "error", "error": text}`. Then `{"cmd": "run", "steps": n}`
is answered by `{"seconds": [n numbers], "loss": last loss, "minor_faults": of these steps, "peak_mb": so far}`, and `{"cmd": "quit"}` ends
it. A worker computes only while it is asked to, so that two never run at once.
"""

import ctypes
import json
import math
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback


class WorkerError(RuntimeError):
    """A worker did not start, failed, or did not answer in time; the text is its own."""


class Unavailable(RuntimeError):
    """Raised by a worker's `build` when its package lacks what is asked for, such as a model; no traceback is worth keeping."""


def serve(build):
    """Runs a worker: builds its model, then answers commands until told to quit.

    Args:
        build: Imports the package and builds the model. Returns a dict with `"step"`, a function without arguments that makes one whole
            training step and returns its loss as a float (so that it has ended), `"parameters"` (`{"dense": n, "embedding": n}`),
            `"versions"` and `"notes"`.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a package prints, some at import, must not mix with the answers

    def answer(value):
        out.write(json.dumps(value) + "\n")

    try:
        built = build()
        built["step"]()  # compiles, and shows that the model trains at all
    except Unavailable as error:
        answer({"event": "error", "error": str(error)})
        return
    except BaseException:
        answer({"event": "error", "error": "".join(traceback.format_exc().splitlines(keepends=True)[-12:])})
        return
    ready = {key: value for key, value in built.items() if key != "step"}
    answer({"event": "ready", **ready, "malloc_kept": malloc_keeps_blocks(), "peak_mb": peak_megabytes()})
    for line in sys.stdin:
        command = json.loads(line)
        if command["cmd"] == "quit":
            break
        try:
            answer(_run(built["step"], command["steps"]))
        except BaseException:
            answer({"event": "error", "error": "".join(traceback.format_exc().splitlines(keepends=True)[-12:])})
            break


def _run(step, steps):
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = []
    loss = math.nan
    for _ in range(steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return {"seconds": seconds, "loss": loss, "minor_faults": faults, "peak_mb": peak_megabytes()}


def peak_megabytes():
    """Returns the largest resident size of this process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


def malloc_keeps_blocks(size=256 << 20):
    """Returns whether a large block comes from glibc's own heap (True) or is mapped and unmapped each time; None without glibc >= 2.33.

    This is how the MALLOC_ settings are seen to have taken effect: some releases of glibc refuse thresholds over 32 MiB.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2.restype = _MallInfo
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        before = libc.mallinfo2().hblkhd
        block = libc.malloc(size)
        mapped = libc.mallinfo2().hblkhd - before
        libc.free(block)
    except (OSError, AttributeError):
        return None
    return mapped < size


class Worker:
    """A worker process, seen from the parent.

    Args:
        command: The command line.
        environment: Variables added to the parent's environment.
        cwd: The folder to run in.
        start_seconds: How long the worker may take until it is ready.
        answer_seconds: How long it may take over one command.

    Raises:
        WorkerError: If it does not become ready.
    """

    def __init__(self, command, *, environment=None, cwd=None, start_seconds=600.0, answer_seconds=900.0):
        self.answer_seconds = answer_seconds
        self._errors = tempfile.TemporaryFile(mode="w+")
        self._buffer = b""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
        try:
            self.ready = self._read(start_seconds)
        except WorkerError:
            self.close()
            raise

    def run(self, steps):
        """Runs training steps and returns the worker's answer."""
        self.process.stdin.write(json.dumps({"cmd": "run", "steps": steps}).encode() + b"\n")
        self.process.stdin.flush()
        return self._read(self.answer_seconds)

    def close(self):
        """Ends the worker; harmless to repeat."""
        if self.process.poll() is None:
            try:
                self.process.stdin.write(b'{"cmd": "quit"}\n')
                self.process.stdin.flush()
                self.process.wait(timeout=15)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            try:
                stream.close()
            except OSError:
                pass

    def _read(self, seconds):
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.process.kill()
                raise WorkerError(f"no answer within {seconds:.0f} s")
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise WorkerError(f"the worker ended with status {self.process.wait()}: {self._last_errors()}")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkerError(f"not an answer: {line[:200]!r}") from error
        if answer.get("event") == "error":
            raise WorkerError(answer["error"].strip())
        return answer

    def _last_errors(self):
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-8:]).strip() or "nothing on stderr"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
