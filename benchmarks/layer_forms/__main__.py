"""Measures memory in a fresh process: `python -m benchmarks.layer_forms JOB`, the job as JSON; prints the answer as JSON."""

import json
import sys

from benchmarks.layer_forms import whole_models
from benchmarks.layer_forms.measure import memory_of
from benchmarks.layers import CASES

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if "model" in job:
        answer = whole_models.memory_of_training(job["model"], batch_size=job["batch"], rows=job["rows"], seed=job["seed"])
    else:
        answer = memory_of(CASES[job["case"]], job["form"], job["batch"], job["seed"], job["sizes"])
    print(json.dumps(answer))
