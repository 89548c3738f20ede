"""Callbacks that Keras lacks: exact ranking metrics at the end of each epoch."""

import inspect
import time
import warnings
from collections.abc import Mapping

import keras
import numpy as np

from keras_ctr import metrics

LOGGED = ("auc", "gauc", "logloss", "ne", "calibration", "ece")
AVERAGED = ("auc", "gauc", "logloss", "ne")


class RankingMetrics(keras.callbacks.Callback):
    """Exact AUC, gAUC, log loss, normalized entropy and calibration on validation data, at the end of each epoch, in `logs`.

    It must stand FIRST in the list: Keras hands one `logs` dict down the list at the end of an epoch, and only callbacks after this one
    find the values there. `History`, and so what `fit` returns, is last of all unless it is given in the list.

    ```python
    model.fit(train, epochs=20, callbacks=[
        keras_ctr.callbacks.RankingMetrics(validation, base_rate=0.043),
        keras.callbacks.EarlyStopping(monitor="val_gauc", mode="max", patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_gauc", mode="max", factor=0.1, min_delta=0.0),
    ])
    ```

    `mode` has to be said: Keras infers it for its own metrics only. `validation_data` of `fit` is not needed; with it the data are read
    twice, `val_loss` appears, and a compiled Keras metric of the same name as one of ours is replaced by the exact value.

    What appears, with one label: `val_auc`, `val_gauc` (when the features hold `groups_key`), `val_logloss`, `val_ne` (with `base_rate`),
    `val_calibration`, `val_ece`; see `keras_ctr.metrics.evaluate`. With several labels: `val_<label>_auc` and so on, and `val_auc`,
    `val_gauc`, `val_logloss`, `val_ne` as the plain means over the labels that have them. A metric that the data do not define (AUC of one
    class) is left out, with a warning. If the model puts out NaN or infinity the metrics are NaN, with a warning, so that training ends by
    the other callbacks' rules and not by an error. `results` holds the last epoch's full `evaluate` dict of each label, counts included.

    Before the first epoch, the first batch is scored to check names and shapes, and the list of callbacks is searched for ones that
    monitor our values from before us or without a `mode`: mistakes are errors then, and not after an hour of training.

    The one callback that belongs before it is `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)`: the averaged weights are scored then.

    Each epoch makes one pass through the compiled `predict_on_batch`. Memory holds label, prediction and group of each row, never the
    features. The whole feature dict goes to the model, group ids included: a plain functional Keras model must not get keys it has no input
    for (it would feed the wrong columns), a model that selects its inputs by name may. Under `MirroredStrategy` every replica scores the
    whole batch; `MultiWorkerMirroredStrategy` is right only if all workers read the same validation data in the same order.

    Args:
        validation_data: batches `(x, y)` or `(x, y, sample_weight)` in anything that can be iterated anew each epoch (`tf.data.Dataset`,
            `keras.utils.PyDataset`, list), or one such tuple of whole arrays. x: `{name: (B, ...)}`; y: `{label: (B, 1)}` or (B,), or one
            array when there is one label. The model's output is `{label: (B, 1)}`, or one array with one label; y may hold labels that the
            model does not put out. sample_weight (array or `{label: array}`): rows of weight 0 are left out, as padding or because the
            label is not defined for them; all others count once, whatever their weight.
        groups_key: name in x of the group ids of the gAUC, (B,) or (B, 1) integers or strings; None for no gAUC.
        base_rate: mean label of the TRAINING set, for the normalized entropy; with several labels `{label: rate}`.
        prefix: string put before each name in `logs`.
        gauc_weight: "impressions", "clicks" or "users", see `keras_ctr.metrics.grouped_auc`.
        batch_size: rows per step when `validation_data` are whole arrays.
        from_logits: True if the model puts out logits (`activation=None`); they then go through a sigmoid here.
        verbose: 1 prints a line with the values and the seconds each epoch, 0 nothing.

    Raises:
        ValueError: bad arguments, data that can be read only once or never end; in `fit`, labels, shapes or order of callbacks that do not
            fit together.
    """

    def __init__(
        self,
        validation_data,
        *,
        groups_key="meta/group",
        base_rate=None,
        prefix="val_",
        gauc_weight="impressions",
        batch_size=4096,
        from_logits=False,
        verbose=0,
    ):
        super().__init__()
        if gauc_weight not in metrics.GAUC_WEIGHTS:
            raise ValueError(f"`gauc_weight` must be one of {', '.join(metrics.GAUC_WEIGHTS)}, got {gauc_weight!r}.")
        rates = base_rate if isinstance(base_rate, Mapping) else {None: base_rate}
        for label, rate in rates.items():
            if rate is not None:
                metrics.check_base_rate(rate, "base_rate" if label is None else f"base_rate[{label!r}]")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be an integer >= 1, got {batch_size!r}.")
        self.validation_data = _batches(validation_data, batch_size)
        self.groups_key = groups_key
        self.base_rate = base_rate
        self.prefix = prefix
        self.gauc_weight = gauc_weight
        self.from_logits = from_logits
        self.verbose = verbose
        self.results = {}
        self._warned = set()

    def on_train_begin(self, logs=None):
        """Scores the first batch and inspects the other callbacks; see the class."""
        self._warned = set()
        labels = list(self._collect(max_batches=1))
        if len(labels) > 1 and self.base_rate is not None and not isinstance(self.base_rate, Mapping):
            raise ValueError(f"`base_rate` must be a dict with one rate a label, as the model has the labels {labels}.")
        if isinstance(self.base_rate, Mapping) and set(self.base_rate) != set(labels):
            raise ValueError(f"`base_rate` has the labels {sorted(self.base_rate)} and the model {sorted(labels)}.")
        names = {self.prefix + metric for metric in LOGGED}
        if len(labels) > 1:
            names |= {self._name(label, metric) for label in labels for metric in LOGGED}
        self._check_order(names)

    def _check_order(self, names):
        before, after = self._neighbours()
        for callback in before:
            kind = type(callback).__name__
            if getattr(callback, "monitor", None) in names:
                raise ValueError(
                    f"{kind}(monitor={callback.monitor!r}) stands before RankingMetrics in `callbacks` and would not see the value. "
                    "Put RankingMetrics first."
                )
            if isinstance(callback, (keras.callbacks.CSVLogger, keras.callbacks.History, keras.callbacks.TensorBoard)):
                warnings.warn(f"{kind} stands before RankingMetrics in `callbacks` and will not record its values.", stacklevel=2)
        for callback in after:
            decides = getattr(callback, "save_best_only", True)  # ModelCheckpoint looks at its mode only to keep the best
            if getattr(callback, "monitor", None) in names and getattr(callback, "mode", None) == "auto" and decides:
                raise ValueError(
                    f"{type(callback).__name__}(monitor={callback.monitor!r}) needs mode='max' or mode='min': "
                    "Keras infers the direction of its own metrics only."
                )

    def on_epoch_end(self, epoch, logs=None):
        """Writes the metrics into `logs` in place."""
        start = time.perf_counter()
        values = self._evaluate()
        if logs is not None:
            logs.update(values)
        if self.verbose:
            line = " - ".join(f"{name}: {value:.5f}" for name, value in values.items())
            print(f"\nEpoch {epoch + 1}: {line} ({time.perf_counter() - start:.1f} s)")

    def _evaluate(self):
        """`{name in logs: value}` over the whole validation data; sets `results`."""
        self.results = {}
        for label, (y, p, groups) in self._collect().items():
            rate = self.base_rate.get(label) if isinstance(self.base_rate, Mapping) else self.base_rate
            if not len(y):
                raise ValueError(f"RankingMetrics: no validation rows for label {label!r} (none at all, or all of weight 0).")
            if np.isfinite(p).all():
                result = metrics.evaluate(y, p, groups=groups, base_rate=rate, gauc_weight=self.gauc_weight)
                if "auc" not in result:
                    self._warn(f"all validation rows of label {label!r} have the same label; it has no AUC.")
                elif groups is not None and "gauc" not in result:
                    self._warn(f"no group of the validation data holds both classes of label {label!r}; it has no gAUC.")
            else:
                self._warn(f"the model predicts NaN or infinity for label {label!r}; its metrics are NaN.")
                absent = {"gauc": groups is None, "ne": rate is None}
                result = {metric: float("nan") for metric in LOGGED if not absent.get(metric)}
            self.results[label] = result
        if len(self.results) == 1:
            return {self.prefix + metric: result[metric] for metric in LOGGED if metric in result}
        values = {
            self._name(label, metric): result[metric] for label, result in self.results.items() for metric in LOGGED if metric in result
        }
        for metric in AVERAGED:
            found = [result[metric] for result in self.results.values() if metric in result]
            if found:
                values[self.prefix + metric] = float(np.mean(found))
        return values

    def _collect(self, max_batches=None):
        """One pass: `{label: (labels (n,), predictions (n,) float64, groups (n,) or None)}`."""
        columns = {}
        for count, batch in enumerate(self.validation_data):
            if count == max_batches:
                break
            for label, parts in self._score(batch).items():
                for column, part in zip(columns.setdefault(label, ([], [], [])), parts, strict=True):
                    column.append(part)
        if not columns:
            raise ValueError("RankingMetrics: `validation_data` holds no batches.")
        joined = {}
        for label, (labels, predictions, groups) in columns.items():
            known = [part is not None for part in groups]
            if any(known) and not all(known):
                raise ValueError(f"RankingMetrics: {self.groups_key!r} is in some batches of `validation_data` and not in others.")
            joined[label] = np.concatenate(labels), np.concatenate(predictions), np.concatenate(groups) if all(known) else None
        return joined

    def _score(self, batch):
        """`{label: (labels, predictions, groups or None)}` of one batch, rows of weight 0 left out."""
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError(f"RankingMetrics: a validation batch must be (x, y) or (x, y, sample_weight), got {_describe(batch)}.")
        x, y, weight = batch if len(batch) == 3 else (*batch, None)
        outputs, y = _by_label(self.model.predict_on_batch(_for_model(x)), y)
        ids = x.get(self.groups_key) if isinstance(x, Mapping) else None
        scored = {}
        for label, output in outputs.items():
            truth = _rows(y[label], f"y[{label!r}]")
            predicted = _rows(output, f"output {label!r}").astype(np.float64)
            # A strategy runs predict_on_batch with the whole batch on each replica and joins the (equal) outcomes.
            replicas = getattr(getattr(self.model, "distribute_strategy", None), "num_replicas_in_sync", 1)
            if len(predicted) == replicas * len(truth):
                predicted = predicted[: len(truth)]
            if self.from_logits:
                predicted = np.exp(-np.logaddexp(0.0, -predicted))
            groups = None if ids is None else _rows(ids, f"x[{self.groups_key!r}]")
            parts = {f"output {label!r}": predicted, f"x[{self.groups_key!r}]": groups}
            own_weight = weight.get(label) if isinstance(weight, Mapping) else weight
            if own_weight is not None:
                parts["sample_weight"] = _rows(own_weight, "sample_weight")
            for name, part in parts.items():
                if part is not None and len(part) != len(truth):
                    raise ValueError(f"RankingMetrics: {name} has {len(part)} rows in a batch where y[{label!r}] has {len(truth)}.")
            keep = slice(None) if own_weight is None else parts["sample_weight"] > 0
            scored[label] = truth[keep], predicted[keep], None if groups is None else groups[keep]
        return scored

    def _name(self, label, metric):
        return f"{self.prefix}{label}_{metric}"

    def _neighbours(self):
        """Callbacks that run before this one, and after; both empty when the list cannot be found.

        Keras tells a callback its model and parameters but not its list, so the list is looked up among the callers.
        """
        frame = inspect.currentframe()
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.callbacks.CallbackList):
                for place, callback in enumerate(owner.callbacks):
                    if callback is self:
                        return owner.callbacks[:place], owner.callbacks[place + 1 :]
            frame = frame.f_back
        return [], []

    def _warn(self, message):
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"RankingMetrics: {message}", stacklevel=3)


class _ArrayBatches:
    """Iterable over whole arrays `(x, y[, sample_weight])` in batches, in order."""

    def __init__(self, arrays, batch_size):
        self._arrays = keras.tree.map_structure(np.asarray, tuple(part for part in arrays if part is not None))
        self._batch_size = batch_size
        lengths = {len(column) for column in keras.tree.flatten(self._arrays)}
        if len(lengths) != 1:
            raise ValueError(f"`validation_data` holds arrays of different lengths: {sorted(lengths)}.")
        self._rows = lengths.pop()

    def __iter__(self):
        for start in range(0, self._rows, self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield keras.tree.map_structure(lambda column, rows=rows: column[rows], self._arrays)


def _batches(data, batch_size):
    """`data` as something that yields batches each time it is iterated."""
    if isinstance(data, (tuple, list)) and data and (isinstance(data[0], Mapping) or hasattr(data[0], "shape")):
        if len(data) not in (2, 3):
            raise ValueError(f"`validation_data` as arrays must be (x, y) or (x, y, sample_weight), got {_describe(data)}.")
        return _ArrayBatches(data, batch_size)
    if isinstance(data, Mapping) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise ValueError(f"`validation_data` must be batches (x, y) or one such tuple of arrays, got {_describe(data)}.")
    if hasattr(data, "__next__"):
        raise ValueError("`validation_data` is an iterator, which can be read only once; give a tf.data.Dataset, a list or arrays.")
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise ValueError("`validation_data` never ends (it was repeated without a count); add `.take(steps)` or leave out `.repeat()`.")
    return data


def _for_model(x):
    """The features as the backend's compiled step takes them.

    TensorFlow takes tensors and arrays alike. JAX and torch know neither TensorFlow's tensors nor strings, so there tensors become arrays
    and text (which only rides along) stays behind.
    """
    if keras.backend.backend() == "tensorflow":
        return x
    arrays = keras.tree.map_structure(keras.ops.convert_to_numpy, x)
    return {name: value for name, value in arrays.items() if value.dtype.kind not in "OUS"} if isinstance(arrays, Mapping) else arrays


def _by_label(outputs, y):
    """Model outputs and labels as two dicts with the outputs' names; one bare array stands for one label."""
    if isinstance(outputs, (list, tuple)) or isinstance(y, (list, tuple)):
        raise ValueError("RankingMetrics: model outputs and labels must be dicts {label: (B, 1)} or single arrays, not lists.")
    if isinstance(outputs, Mapping) and isinstance(y, Mapping):
        missing = [label for label in outputs if label not in y]
        if missing:
            raise ValueError(f"RankingMetrics: the model puts out {missing[0]!r}, the validation labels are {list(y)}.")
        return outputs, y
    for named in (outputs, y):
        if isinstance(named, Mapping) and len(named) != 1:
            raise ValueError(f"RankingMetrics: {list(named)} stand against a single array; outputs and labels must both be dicts.")
    name = next((next(iter(named)) for named in (outputs, y) if isinstance(named, Mapping)), "label")
    return tuple(named if isinstance(named, Mapping) else {name: named} for named in (outputs, y))


def _rows(values, name):
    """NumPy (B,) from a tensor or array (B,) or (B, 1)."""
    array = keras.ops.convert_to_numpy(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"RankingMetrics: {name} must have shape (B,) or (B, 1), got {array.shape}.")
    return array


def _describe(value):
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list, Mapping)) else type(value).__name__
