"""Equal budgets: every model tries the same grid on the validation split with one seed; the winner is trained with several seeds.

The test split is scored by the winners alone. Runs go to worker processes of one thread each; results are written after every run, and a
run whose result is in the file already is not repeated. `benchmarks.planted` and `benchmarks.zoo` are built on this.
"""

import concurrent.futures
import json
import multiprocessing
import os
import platform
import time
from pathlib import Path

_LOADED = {}
RUNS_A_PROCESS = 8
"""A process that builds one model after the other does not give all memory back. (`max_tasks_per_child` of a pool can hang.)"""
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def select(cases, load, out, *, grid, seeds=3, jobs=2, note=None):
    """Runs all cases and returns the document of results, which `out` holds too.

    Args:
        cases: Dicts with `name` (unique), `data` (what `load` takes) and a configuration of `benchmarks.study`.
        load: `load(data, seed) -> (schema, label rates, splits)`; a function of a module (or a partial of one), so that processes find it.
        out: JSON file of the results.
        grid: Dicts of configuration keys, each one trial (a single one needs none); a case with a key `grid` has its own.
        seeds: Runs of each winner, seeds 1 .. seeds. Trials have the seed 1.
        jobs: Worker processes.
        note: What else the document should say, a dict.

    Returns:
        `{"trials": [...], "results": [...], "chosen": {name: configuration}, "cases", "grid", "versions", ...}`.
    """
    out = Path(out)
    document = json.loads(out.read_text()) if out.exists() else {"trials": [], "results": []}
    document |= {"cases": cases, "grid": grid, **(note or {})}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the processes started below
    grids = {case["name"]: case.get("grid", grid) for case in cases}
    trials = [(case, {**case, **choice}, 1) for case in cases for choice in grids[case["name"]] if len(grids[case["name"]]) > 1]
    _run("trials", trials, load, ("validation",), jobs, document, out)
    document["chosen"] = {case["name"]: _winner(case, grids[case["name"]], document["trials"]) for case in cases}
    finals = [(case, {**case, **document["chosen"][case["name"]]}, seed) for seed in range(1, seeds + 1) for case in cases]
    _run("results", finals, load, ("validation", "test"), jobs, document, out)
    _write(document, out)
    return document


def _run(kind, todo, load, splits, jobs, document, out):
    """Runs what the document does not hold yet and adds it."""
    done = {(r["name"], json.dumps(r["config"], sort_keys=True), r["seed"]) for r in document[kind]}
    todo = [t for t in todo if (t[0]["name"], json.dumps(_plain(t[1]), sort_keys=True), t[2]) not in done]
    start, count = time.perf_counter(), 0
    for result in _results(todo, load, splits, jobs):
        document[kind].append(result)
        _write(document, out)
        count += 1
        left = (time.perf_counter() - start) / count * (len(todo) - count) / 60
        shown = {s: round(next(iter(result[s].values()))["auc"], 4) for s in splits}
        print(
            f"[{kind} {count}/{len(todo)}] {result['name']} rate {result['config']['learning_rate']} seed {result['seed']}: {shown} "
            f"best epoch {result['best_epoch']}/{result['epochs']} {result['seconds']} s, left {left:.1f} min",
            flush=True,
        )


def _results(todo, load, splits, jobs):
    """Yields the results as they come, from processes that are replaced after `RUNS_A_PROCESS` runs each."""
    context = multiprocessing.get_context("spawn")
    for begin in range(0, len(todo), jobs * RUNS_A_PROCESS):
        with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures = {}
            for case, config, seed in todo[begin : begin + jobs * RUNS_A_PROCESS]:
                futures[pool.submit(_one, load, _plain(config), case["data"], seed, splits)] = (case, config)
            for future in concurrent.futures.as_completed(futures):
                case, config = futures[future]
                yield {**future.result(), "data": case["data"], "config": _plain(config)}


def _plain(config):
    return {k: v for k, v in config.items() if k not in ("grid", "data")}


def _winner(case, grid, trials):
    """Returns the grid point with the highest validation AUC, the mean over the labels, or the only one."""
    if len(grid) == 1:
        return dict(grid[0])
    mine = [t for t in trials if t["name"] == case["name"]]
    best = max(mine, key=lambda t: sum(values["auc"] for values in t["validation"].values()))
    return {k: v for k, v in best["config"].items() if k not in case or case[k] != v}


def _one(load, config, data, seed, splits):
    from benchmarks import study

    key = (json.dumps(data), seed)
    if key not in _LOADED:
        _LOADED.clear()  # one data set a process: runs of one seed and task come together
        _LOADED[key] = load(data, seed)
    return study.run(config, seed, *_LOADED[key], evaluate=splits)


def _write(document, out):
    import keras

    document["versions"] = {"keras": keras.__version__, "backend": keras.backend.backend(), "python": platform.python_version()}
    part = out.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(out)
