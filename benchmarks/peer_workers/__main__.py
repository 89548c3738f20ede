"""Starts a worker: `python -m benchmarks.peer_workers MODULE CONFIGURATION`, the configuration as JSON."""

import importlib
import json
import sys

from benchmarks.peer_workers.protocol import serve

if __name__ == "__main__":
    module, configuration = sys.argv[1:]
    serve(lambda: importlib.import_module(f"benchmarks.peer_workers.{module}").build(json.loads(configuration)))
