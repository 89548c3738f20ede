"""KerasTuner's oracles, made to outlive a kill at any moment: atomic files, state repaired when it is read again, budgets.

What KerasTuner 1.4.8 does by itself: `trial.json` and `oracle.json` are written in place, so that a kill leaves half a file, which ends
the next start; `oracle.json` still calls a trial ongoing when its end is on disk, so that it is run again; a trial whose file was written
before the oracle's never runs; the grid forgets its place; over gRPC a trial's error is lost, metrics become float32 and the order of the
space changes. (`keras_tuner/src/engine/oracle.py`, `tuners/gridsearch.py`, `engine/trial.py`.)
"""

import collections
import shutil
import time
from pathlib import Path

import keras_tuner
import numpy as np
from keras_tuner import oracles
from keras_tuner.engine.trial import Trial

from tuning.files import read_json, remove_incomplete, write_json
from tuning.trials import COMPLETED, DAMAGED, EPOCHS, FAILED, OWN_VALUES, RECORD, TRIAL_FOLDER, read_record, trial_folder

ORACLE, TRIAL = "oracle.json", "trial.json"
RUNNING, IDLE, STOPPED = "RUNNING", "IDLE", "STOPPED"
_MOST_DEATHS = 2


class _Durable:
    """Mixin before an oracle of KerasTuner.

    Attributes:
        reason: Why no further trial began, None as long as they do.
        fatal: The error that ended the oracle, if one did.
        warnings: What was repaired when the state was read.
    """

    end_of_space = "every configuration of the space was tried"

    def prepare(self, folder, budget, epochs, *, max_failures, listener=None):
        """Sets what KerasTuner's constructors do not take.

        Args:
            folder: Folder of the search.
            budget: `Budget`.
            epochs: Most epochs of a trial.
            max_failures: Failed trials in a row that end the search.
            listener: Called with the record of every trial that ends.
        """
        self.folder, self.budget, self.epochs = Path(folder), budget, epochs
        self.max_failures, self.listener = max_failures, listener
        self.max_consecutive_failed_trials = -1  # KerasTuner would raise within the lock of a server and leave it locked
        self.verbose = 0
        self.reason, self.fatal, self.warnings = None, None, []
        self._spent = {}  # trial -> epochs that it took
        self._damaged = set()
        self._failures, self._deaths, self._dead = 0, collections.Counter(), collections.deque()
        self._began, self._before = time.monotonic(), 0.0
        return self

    # Files

    def save(self):
        """Writes `oracle.json`."""
        write_json(self.folder / ORACLE, self.get_state())

    def _save_trial(self, trial):
        write_json(trial_folder(self.folder, trial.trial_id) / TRIAL, trial.get_state())

    def get_state(self):
        """KerasTuner's state, and the seconds that the search has taken."""
        return {**super().get_state(), "seconds": self.seconds}

    @property
    def seconds(self):
        """Seconds that the search has taken, those of earlier runs included."""
        return self._before + time.monotonic() - self._began

    def reload(self):
        """Reads the state and makes whole what a kill, or a damaged file, has left."""
        remove_incomplete(self.folder)
        state = read_json(self.folder / ORACLE)
        found = {}
        for path in sorted(self.folder.glob(f"{TRIAL_FOLDER}*/{TRIAL}")):
            found[path.parent.name.removeprefix(TRIAL_FOLDER)] = _load_trial(path)
        if state is None:
            state = self._state_without_file(found)
        known = set(state["start_order"])
        for trial_id in sorted(found.keys() - known):  # begun by a process that died before the oracle knew: it never ran
            shutil.rmtree(trial_folder(self.folder, trial_id))
        self.trials = {trial_id: self._whole(trial_id, found.get(trial_id)) for trial_id in state["start_order"]}
        self._before = state.pop("seconds", 0.0)
        state["ongoing_trials"], state["retry_queue"] = {}, []
        state["end_order"] = [t for t in state["end_order"] if self._finished(t)]
        state["end_order"] += [t for t in state["start_order"] if self._finished(t) and t not in state["end_order"]]
        self.set_state(state)
        # What began and did not end runs again, the first one first (KerasTuner takes from the end).
        self._retry_queue = [t for t in reversed(self.start_order) if not self._finished(t)]
        for trial_id in self._retry_queue:
            _forget(self.trials[trial_id])
        for trial_id in self.end_order:
            self._spent[trial_id] = (read_record(self.folder, trial_id) or {}).get("epochs", 0)

    def _finished(self, trial_id):
        return self.trials[trial_id].status in ("COMPLETED", "FAILED")

    def _whole(self, trial_id, trial):
        """Returns a trial as its file has it; from its record, or as a damaged one, if the file cannot be read."""
        if trial is not None:
            return trial
        path, record = trial_folder(self.folder, trial_id) / TRIAL, read_record(self.folder, trial_id)
        values = {}
        if record:
            values = {**record["parameters"], **{OWN_VALUES + k: v for k, v in record["algorithm"].items()}}
        space = self.hyperparameters.copy()
        space.values = values
        trial = Trial(space, trial_id, "FAILED", f"{path} is damaged")
        if record and record["status"] == COMPLETED:
            trial.status, trial.message = "COMPLETED", None
            trial.metrics.register(self.objective.name, self.objective.direction)
            trial.metrics.update(self.objective.name, record["objective"])
            trial.score, trial.best_step = record["objective"], 0
            self.warnings.append(f"{path} was damaged; it was made anew from {RECORD}")
        elif not record or record["status"] == DAMAGED:
            self._damaged.add(trial_id)
            self.warnings.append(f"{path} is damaged and the trial was not finished: it is left out, and another takes its place")
            if not record:
                error = {"type": "DamagedFile", "message": trial.message, "traceback": ""}
                record = {"trial": trial_id, "number": int(trial_id), "status": DAMAGED, "parameters": {}, "algorithm": {}, "error": error}
                write_json(trial_folder(self.folder, trial_id) / RECORD, record | {"objective": None, "epochs": 0, "seconds": 0.0})
        self._save_trial(trial)
        return trial

    def _state_without_file(self, found):
        """Returns the state as the trials tell it."""
        if isinstance(self, oracles.HyperbandOracle):
            raise ValueError(f"{self.folder / ORACLE} is damaged or missing, and Hyperband's brackets are nowhere else; start anew")
        self.warnings.append(f"{self.folder / ORACLE} was damaged or missing; it was made anew from the trials")
        order = [trial_id for trial_id, trial in found.items() if trial is not None or read_record(self.folder, trial_id)]
        state = {**super().get_state(), "start_order": order, "run_times": dict.fromkeys(order, 1)}
        values = [found[t].hyperparameters.values if found[t] else read_record(self.folder, t)["parameters"] for t in order]
        hashes = {t: self._compute_values_hash(v) for t, v in zip(order, values, strict=True)}
        draws = sum(map(len, values))
        # Beyond every seed that was used, so that no configuration comes a second time.
        state |= {"seed_state": self.seed + 1000 * (draws + 1), "tried_so_far": sorted(hashes.values()), "id_to_hash": hashes}
        return state | {"seconds": 0.0}

    # Trials

    def create_trial(self, tuner_id):
        """Gives a tuner its next trial; of one that died, its trial goes to another."""
        try:
            while self._dead:
                self._release(self._dead.popleft())
            if self._time_is_over():
                self._retry_queue = [t for t in self._retry_queue if read_record(self.folder, t)]
            return super().create_trial(tuner_id)
        except Exception as error:
            self.fatal = error
            raise

    def populate_space(self, trial_id):
        """Draws the values of a new trial, unless the budget is spent."""
        waiting = self._stop_reason()
        if waiting:
            if waiting != IDLE:
                self.reason = waiting
            return {"status": IDLE if waiting == IDLE else STOPPED, "values": None}
        response = super().populate_space(trial_id)
        if response["status"] == STOPPED:
            self.reason = self.end_of_space
        values = response.get("values")
        if response["status"] == RUNNING:
            left = self._epochs_left()
            if left is not None and left < values.get(EPOCHS, self.epochs):
                values[EPOCHS] = left
        return response

    def _stop_reason(self):
        if self._failures >= self.max_failures:
            return f"{self._failures} trials in a row failed"
        if self.budget.trials is not None and len(self.trials) - len(self._damaged) >= self.budget.trials:
            return f"{self.budget.trials} trials"
        if self._time_is_over():
            return f"{self.budget.minutes:g} minutes"
        left = self._epochs_left()
        if left is None or left > 0:
            return None
        return IDLE if self.ongoing_trials else f"{self.budget.epochs} epochs"  # those that run may stop early and leave some

    def _time_is_over(self):
        return self.budget.minutes is not None and self.seconds >= 60 * self.budget.minutes

    def _epochs_left(self):
        if self.budget.epochs is None:
            return None
        planned = [min(self.epochs, t.hyperparameters.values.get(EPOCHS, self.epochs)) for t in self.ongoing_trials.values()]
        return self.budget.epochs - sum(self._spent.values()) - sum(planned)

    def end_trial(self, trial):
        """Ends a trial. Its record says what gRPC does not carry: the error, the epochs, the values as they were drawn."""
        try:
            record = read_record(self.folder, trial.trial_id)
            trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
            if record:
                self._spent[trial.trial_id] = record["epochs"]
                if record["error"] and not trial.message:
                    trial.message = record["error"]["traceback"] or record["error"]["message"]
            super().end_trial(trial)
            self._failures = self._failures + 1 if self.trials[trial.trial_id].status == "FAILED" else 0
            self.save()  # KerasTuner's own save still calls the trial ongoing
        except Exception as error:
            self.fatal = error
            raise
        if self.listener is not None and record:
            self.listener(record)

    def worker_died(self, tuner_id):
        """Notes, from any thread, that a tuner will not come back."""
        self._dead.append(tuner_id)

    def _release(self, tuner_id):
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return
        _forget(trial)
        self._deaths[trial.trial_id] += 1
        if self._deaths[trial.trial_id] >= _MOST_DEATHS and not read_record(self.folder, trial.trial_id):
            write_json(trial_folder(self.folder, trial.trial_id) / RECORD, _death(trial, self._deaths[trial.trial_id]))
        self._retry_queue.insert(0, trial.trial_id)  # with a record the next tuner only reports it

    def trials_to_come(self):
        """Returns how many trials the search will have, or None if nobody knows."""
        return self.budget.trials


class Random(_Durable, oracles.RandomSearchOracle):
    """Draws at random."""


class Bayesian(_Durable, oracles.BayesianOptimizationOracle):
    """Gaussian process; the random numbers of a trial follow from its number, so a resumed search goes on as if never stopped."""

    def populate_space(self, trial_id):
        """Draws the values; what was tried already gives way to a random draw."""
        self._random_state = np.random.RandomState((self.seed + 1 + int(trial_id)) % 2**32)
        response = super().populate_space(trial_id)
        values = response.get("values")
        if response["status"] == RUNNING and self._duplicate({k: v for k, v in values.items() if k != EPOCHS}):
            limit = {EPOCHS: values[EPOCHS]} if EPOCHS in values else {}
            response = self._random_populate_space()
            if response["status"] == RUNNING:
                response["values"] |= limit
            else:
                self.reason = self.end_of_space
        return response

    def _compute_values_hash(self, values):
        return super()._compute_values_hash({k: v for k, v in values.items() if not k.startswith(OWN_VALUES)})


class Hyperband(_Durable, oracles.HyperbandOracle):
    """Successive halving."""

    end_of_space = "all brackets are done"


class _NextOfGrid(oracles.GridSearchOracle):
    """The grid in order; the next configuration follows from the last one's values alone, so its place is never lost."""

    def populate_space(self, trial_id):
        """Returns the configuration after the last one that began."""
        if self.start_order:
            values = self._after(self.trials[self.start_order[-1]].hyperparameters.values)
        else:
            values = self._first()
        return {"status": RUNNING if values else STOPPED, "values": values}

    def _first(self):
        hps = self.get_space()
        hps.values = {}
        for hp in hps.space:
            if hps.is_active(hp):
                hps.values[hp.name] = hp.default
        return hps.values

    def _after(self, values):
        return self._get_next_combination({k: v for k, v in values.items() if not k.startswith(OWN_VALUES)})


class Grid(_Durable, _NextOfGrid):
    """Every configuration, in order."""

    def trials_to_come(self, most=1000):
        """Counts the grid, up to the budget."""
        count, values, most = 0, self._first(), min(most, self.budget.trials or most)
        while values and count < most:
            count, values = count + 1, self._after(values)
        return self.budget.trials if values else count


def make_oracle(settings, objective, space, seed):
    """Returns the oracle of an algorithm.

    Args:
        settings: `Settings`; `options` go to KerasTuner's constructor.
        objective: `Objective`.
        space: `HyperParameters` that are drawn.
        seed: An int of at least 1.

    Raises:
        ValueError: If the algorithm does not take an option.
    """
    kind = {"random": Random, "bayesian": Bayesian, "hyperband": Hyperband, "grid": Grid}[settings.algorithm]
    options = {} if settings.algorithm == "hyperband" else {"max_trials": None}
    target = keras_tuner.Objective(objective.text, objective.direction)
    try:
        return kind(objective=target, hyperparameters=space, seed=seed, **{**options, **settings.options})
    except TypeError as error:
        raise ValueError(f"algorithm '{settings.algorithm}': {error}") from error


def _load_trial(path):
    """Returns the trial in a file, or None if it cannot be read as one."""
    try:
        return Trial.load(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _forget(trial):
    """Takes away what a trial reported before it was cut off: KerasTuner would average it with what comes."""
    trial.metrics = type(trial.metrics)()


def _death(trial, deaths):
    values = trial.hyperparameters.values
    message = f"the process of this trial died {deaths} times; it may have needed more memory than there is (its log is in logs/)"
    return {
        "trial": trial.trial_id,
        "number": int(trial.trial_id),
        "status": FAILED,
        "parameters": {k: v for k, v in values.items() if not k.startswith(OWN_VALUES)},
        "algorithm": {k.removeprefix(OWN_VALUES): v for k, v in values.items() if k.startswith(OWN_VALUES)},
        "configuration": None,
        "objective": None,
        "epochs": 0,
        "seconds": 0.0,
        "error": {"type": "WorkerDied", "message": message, "traceback": ""},
    }
