"""Searches hyperparameters of one model on prepared data: `search(data, folder, "DCNv2", trials=50)`.

A trial is a `RunConfig` drawn from the model's space and the space of the training, trained as `keras-ctr train` trains it; the validation
split decides, the test split is not read. Everything is in the folder: a search that was killed goes on with `resume=True`.
"""

import contextlib
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tuning.files import read_json
from tuning.objective import Objective
from tuning.results import BEST, error_line, failures, first_error, ranked, write_board, write_results
from tuning.settings import SETTINGS, Budget, Draw, Settings, algorithm_name, load_settings, reference_of, save_settings
from tuning.trials import read_record, read_records

DEFAULT_TRIALS = 20
_LOCK = ".lock"


class SearchFailed(RuntimeError):
    """All trials of a search failed."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        folder: Its folder.
        objective: `Objective`.
        trials: Records of the completed trials, the best first.
        failed: Records of the failed ones.
        reason: Why it ended, such as "20 trials".
        seconds: Seconds it took, over all its runs.
    """

    folder: Path
    objective: Objective
    trials: list
    failed: list
    reason: str
    seconds: float

    @property
    def best(self):
        """The record of the best trial."""
        return self.trials[0]

    @property
    def best_config(self):
        """Path of the best configuration, which `keras-ctr train --config` takes."""
        return self.folder / BEST


def search(
    data,
    folder,
    model="InterFormer",
    *,
    space=None,
    training=None,
    optimizers=(),
    algorithm="random",
    options=None,
    objective="val_auc",
    trials=None,
    total_epochs=None,
    minutes=None,
    workers=1,
    seed=1,
    fixed=None,
    keep_models=False,
    max_failures=5,
    resume=False,
    overwrite=False,
    board=True,
    progress=None,
    tell=None,
):
    """Searches the hyperparameters of a model.

    With the environment variables KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT this process is the chief or a
    worker of a search over several machines, which share the folder; see docs/tuning.md.

    Args:
        data: Path of a prepared data set.
        folder: Folder of the search.
        model: Name of a space of `tuning.spaces`; with `space` the name of a registered factory.
        space: `space(hp) -> factory arguments`, or `"module:function"`; None for the model's.
        training: `training(hp) -> keys of RunConfig`, likewise; None for `tuning.training.training_space`.
        optimizers: What `training_space` chooses from; empty for its default.
        algorithm: `"random"`, `"hyperband"`, `"bayesian"` or `"grid"`, or KerasTuner's names of them.
        options: Further arguments of KerasTuner's oracle, such as `{"factor": 3}` of Hyperband.
        objective: A validation metric or a weighted sum, see `tuning.objective.parse_objective`.
        trials, total_epochs, minutes: The budget, `Budget`; with none of them 20 trials, one round of Hyperband, or the whole grid.
        workers: Processes of one thread each on this machine; 1 trains in this process with all its threads.
        seed: Seed of the draws and of the trials' seeds.
        fixed: Keys of `RunConfig` that are not drawn; `arguments` holds arguments of the model.
        keep_models: Keep the model of every trial as a run folder `trial_<id>/run`.
        max_failures: Failed trials in a row that end the search.
        resume: Go on with the search in the folder. Settings must be the same; the budget may be another.
        overwrite: Delete what is in the folder first.
        board: Write TensorBoard's HParams.
        progress: `rich.progress.Progress` for the bars.
        tell: Called with lines of text: failed trials, repaired files.

    Returns:
        `SearchResult`; None in a worker of a search over several machines.

    Raises:
        SearchFailed: If no trial was completed, with the first error.
        FileExistsError: If the folder exists and neither `resume` nor `overwrite` is given, or a search is running in it.
        ValueError: On settings that do not fit, or differ from those of the search that is resumed.
    """
    from keras_ctr.data import PreparedData
    from tuning import workers as processes
    from tuning.trials import TrialRunner, search_objective

    tell = tell or (lambda line: None)
    folder = Path(folder)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    name, address = processes.environment()
    if name is not None and "chief" not in name:
        return _work_for_chief(folder, progress, tell)
    settings = Settings(
        data=os.path.abspath(data),
        model=model,
        space=reference_of(space),
        training=reference_of(training),
        optimizers=tuple(optimizers),
        algorithm=algorithm_name(algorithm),
        options=dict(options or {}),
        objective=objective,
        seed=seed,
        fixed=dict(fixed or {}),
        keep_models=keep_models,
    )
    for what, function, reference in (("space", space, settings.space), ("training", training, settings.training)):
        if function is not None and reference is None and (workers > 1 or address):
            raise ValueError(f"{what}: several processes need a function of a module, or 'module:function'; got {function!r}")
    budget = Budget(trials, total_epochs, minutes)
    if budget.unlimited and settings.algorithm in ("random", "bayesian"):
        budget = Budget(trials=DEFAULT_TRIALS)
    functions = {"space": None if isinstance(space, str) else space, "training": None if isinstance(training, str) else training}
    draw = Draw(settings, **functions)
    prepared = PreparedData(data)
    goal = search_objective(prepared, settings)
    _check(settings, draw)
    with _folder(folder, settings, budget, resume=resume, overwrite=overwrite):
        listener = _Listener(folder, goal, board, progress, tell)
        oracle = processes.oracle_of(folder, settings, budget, draw, goal, max_failures=max_failures, listener=listener)
        if (folder / "oracle.json").exists() or any(folder.glob("trial_*/trial.json")):
            oracle.reload()
        oracle.save()
        for line in oracle.warnings:
            tell(line)
        with _bar(progress, settings, oracle) as update:
            listener.update = update
            if workers > 1 or address:
                processes.serve(oracle, folder, 0 if address and workers == 1 else workers, address=address)
            else:
                runner = TrialRunner(folder, settings, draw, progress=progress)
                processes.TrialTuner(oracle, folder, runner).search()
        oracle.save()
        records = [r for trial_id in oracle.start_order if (r := read_record(folder, trial_id))]
        result = SearchResult(
            folder, goal, ranked(records, goal), failures(records), oracle.reason or "all trials", round(oracle.seconds, 1)
        )
        details = {"settings": settings.document(), "reason": result.reason, "seconds": result.seconds}
        write_results(folder, records, goal, details)
    if not result.trials:
        raise SearchFailed(
            f"all {len(result.failed)} trials failed; the first error: {first_error(records)}" if records else "no trial was begun"
        )
    return result


def load_result(folder):
    """Returns the `SearchResult` of a search that ended, or is running, from its folder."""
    from keras_ctr.data import PreparedData
    from tuning.trials import search_objective

    settings, _ = load_settings(folder)
    goal = search_objective(PreparedData(settings.data), settings)
    records, document = read_records(folder), read_json(Path(folder) / "results.json") or {}
    return SearchResult(
        Path(folder), goal, ranked(records, goal), failures(records), document.get("reason", "not ended"), document.get("seconds", 0.0)
    )


def _check(settings, draw):
    """Draws the default configuration once, so that what is wrong with all of them is an error and no list of failed trials."""
    from keras_tuner import HyperParameters

    import keras_ctr
    from keras_ctr.cli.runs import RunConfig

    RunConfig.from_dict(draw(HyperParameters()))
    keras_ctr.model_info(draw.model)
    if "seed" in settings.fixed:
        raise ValueError("the seeds of trials follow from the search's seed; give that instead of 'seed'")


def _work_for_chief(folder, progress, tell):
    """Runs trials for the chief until it has no more; returns None."""
    from tuning import workers as processes

    if not (folder / SETTINGS).exists():
        raise FileNotFoundError(f"{folder} holds no search: start the chief first, and give all machines the same folder")

    def report(record):
        text = f"objective {record['objective']:.5f}" if record["objective"] is not None else f"failed: {error_line(record)}"
        tell(f"trial {record['trial']} {text} ({record['seconds']:.0f} s)")

    processes.work(folder, progress=progress, report=report)


@contextlib.contextmanager
def _folder(folder, settings, budget, *, resume, overwrite):
    """Makes the folder of a search, or checks that the one there is of the same, and keeps other processes out of it."""
    if folder.exists() and any(folder.iterdir()):
        if overwrite and not resume:
            if not (folder / SETTINGS).exists():
                raise FileExistsError(f"{folder} exists and holds no search; choose another folder")
            with _locked(folder):
                shutil.rmtree(folder)
        elif not resume:
            raise FileExistsError(f"{folder} exists; choose another folder, or pass --resume to go on or --overwrite to start anew")
        elif (folder / SETTINGS).exists():
            _same(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        save_settings(folder, settings, budget)
        yield


def _same(folder, settings):
    before, now = load_settings(folder)[0].document(), settings.document()
    different = [key for key in now if now[key] != before.get(key)]
    if different:
        key = different[0]
        raise ValueError(
            f"{folder}: the search there has {key} {before.get(key)!r}, not {now[key]!r}; only the budget may change with --resume"
        )


@contextlib.contextmanager
def _locked(folder):
    """Holds a lock that ends with this process, however it ends."""
    with open(folder / _LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(f"a search is running in {folder}") from error
        yield


class _Listener:
    """What happens when a trial ends: the bar moves, a failure is told, TensorBoard's files are written."""

    def __init__(self, folder, objective, board, progress, tell):
        self.folder, self.objective, self.board, self.progress, self.tell = folder, objective, board, progress, tell
        self.update = lambda: None

    def __call__(self, record):
        if record["error"]:
            self.tell(f"trial {record['trial']} failed: {error_line(record)}")
        elif self.board:
            write_board(self.folder, record, self.objective)
        self.update()


@contextlib.contextmanager
def _bar(progress, settings, oracle):
    """Yields a function that moves the bar of the search, in the unit of its budget."""
    if progress is None:
        yield lambda: None
        return
    total, unit = oracle.trials_to_come(), "trials"
    if total is None and oracle.budget.epochs is not None:
        total, unit = oracle.budget.epochs, "epochs"
    elif total is None and oracle.budget.minutes is not None:
        total, unit = round(60 * oracle.budget.minutes), "seconds"
    task = progress.add_task(f"{settings.model} {settings.algorithm}", total=total, note=unit)

    def update():
        ended = [oracle.trials[t] for t in oracle.end_order]
        done = {"trials": len(ended), "epochs": sum(oracle._spent.values()), "seconds": round(oracle.seconds)}[unit]
        scores = [t.score for t in ended if t.status == "COMPLETED"]
        best = None if not scores else max(scores) if oracle.objective.direction == "max" else min(scores)
        failed = len(ended) - len(scores)
        note = unit if best is None else f"{unit}, best {oracle.objective.name} {best:.4f}"
        progress.update(task, completed=done, note=note + (f", {failed} failed" if failed else ""))

    update()
    yield update
    update()
