"""What a search is: its settings, which never change, its budget, which may, and the space that it draws from."""

import dataclasses
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from keras_ctr.schema import nearest
from tuning.files import plain, read_json, write_json

SETTINGS = "search.json"
ALGORITHMS = {"random": "RandomSearch", "hyperband": "Hyperband", "bayesian": "BayesianOptimization", "grid": "GridSearch"}


@dataclass(frozen=True)
class Budget:
    """When a search ends: at the first of these; None is no limit.

    Attributes:
        trials: Trials, failed ones included.
        epochs: Epochs of all trials together; the last trial may be cut to what is left.
        minutes: Minutes since the search began, over all its runs; no trial begins after them.
    """

    trials: int | None = None
    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value is not None and value <= 0:
                raise ValueError(f"budget: {name} must be above 0, got {value}")

    @property
    def unlimited(self):
        """Whether it sets no limit at all."""
        return self.trials is None and self.epochs is None and self.minutes is None


@dataclass(frozen=True)
class Settings:
    """What a search is; the same in every one of its processes, and when it is resumed.

    Attributes:
        data: Path of the prepared data.
        model: Name of a space of `tuning.spaces`, or with a space of one's own of a registered factory.
        space: `"module:function"` of `space(hp) -> factory arguments`; None for the model's of `tuning.spaces`.
        training: `"module:function"` of `training(hp) -> keys of RunConfig`; None for `tuning.training.training_space`.
        optimizers: Names that `training_space` chooses from; empty for its default.
        algorithm: Key of `ALGORITHMS`.
        options: Further arguments of the algorithm.
        objective: Text of the objective.
        seed: Seed of the draws, and of the trials' seeds.
        fixed: Keys of `RunConfig` that are not drawn, `arguments` among them.
        keep_models: Whether a trial's model is kept, as a run folder.
    """

    data: str
    model: str
    space: str | None = None
    training: str | None = None
    optimizers: tuple = ()
    algorithm: str = "random"
    options: dict = field(default_factory=dict)
    objective: str = "val_auc"
    seed: int = 1
    fixed: dict = field(default_factory=dict)
    keep_models: bool = False

    def document(self):
        """Returns them as a JSON object."""
        return plain(dataclasses.asdict(self))


def algorithm_name(name):
    """Returns the key of `ALGORITHMS` for a key or KerasTuner's own name.

    Raises:
        ValueError: On an unknown name, with the nearest one.
    """
    known = {**{key.lower(): key for key in ALGORITHMS}, **{value.lower(): key for key, value in ALGORITHMS.items()}}
    if name.lower() not in known:
        choices = [*ALGORITHMS, *ALGORITHMS.values()]
        raise ValueError(f"no search algorithm '{name}'{nearest(name, choices)}; algorithms: {', '.join(choices)}")
    return known[name.lower()]


def save_settings(folder, settings, budget):
    """Writes the settings and the budget of a search into its folder."""
    write_json(Path(folder) / SETTINGS, {**settings.document(), "budget": dataclasses.asdict(budget)})


def load_settings(folder):
    """Returns `(Settings, Budget)` of a search's folder.

    Raises:
        FileNotFoundError: If it holds no search.
    """
    document = read_json(Path(folder) / SETTINGS)
    if document is None:
        raise FileNotFoundError(
            f"{folder} is no folder of a search: {SETTINGS} is missing or damaged; a search is made by 'keras-ctr tune'"
        )
    budget = Budget(**document.pop("budget"))
    return Settings(**{k: tuple(v) if k == "optimizers" else v for k, v in document.items()}), budget


def function_of(reference):
    """Returns the function that `"module:function"` names.

    Raises:
        ValueError: If it names none.
    """
    module, colon, name = reference.partition(":")
    try:
        found = importlib.import_module(module) if colon else None
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"'{reference}' names no function of the form module:function ({error})") from error
    return found


def reference_of(function):
    """Returns `"module:function"` of a function, or None if other processes would not find it there."""
    if function is None or isinstance(function, str):
        return function
    reference = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        return reference if function_of(reference) is function and not reference.startswith("__main__:") else None
    except ValueError:
        return None


class Draw:
    """Draws configurations: `draw(hp)` returns the keys of `RunConfig` for the values of a `HyperParameters`.

    Args:
        settings: `Settings`.
        space, training: The functions themselves, where the settings cannot name them.
    """

    def __init__(self, settings, space=None, training=None):
        self.fixed, self.model = settings.fixed, settings.model
        self._space = space or (function_of(settings.space) if settings.space else None)
        if self._space is None:
            from tuning.spaces import get_space

            self.model, self._space = get_space(settings.model)
        self._training = training or (function_of(settings.training) if settings.training else None)
        if self._training is None:
            from tuning.training import training_space

            options = {"optimizers": settings.optimizers} if settings.optimizers else {}
            self._training = lambda hp: training_space(hp, **options)

    def __call__(self, hp):
        arguments = {**self._space(hp), **self.fixed.get("arguments", {})}
        drawn = {**self._training(hp), **{k: v for k, v in self.fixed.items() if k != "arguments"}}
        # As it comes back from the file of the best configuration, so that a training from there is the trial's.
        return json.loads(json.dumps({**drawn, "model": self.model, "arguments": arguments}))


def explore(draw):
    """Returns the `HyperParameters` of a space with all its conditional ones; those that are fixed have their value as the only one."""
    space = _explored(draw, {})
    fixed = {**draw.fixed, **draw.fixed.get("arguments", {})}
    plain_names = {hp.name for hp in space.space if not hp.conditions}
    same = {k: v for k, v in fixed.items() if k in plain_names and isinstance(v, (str, int, float, bool))}
    return _explored(draw, same) if same else space


def _explored(draw, fixed):
    """Runs the space until every conditional branch was taken, as KerasTuner does when it makes a tuner."""
    from keras_tuner import HyperParameters

    space = HyperParameters()
    for name, value in fixed.items():
        space.Fixed(name, value)
    hp, open_scopes, seen = space.copy(), [], []
    while True:
        draw(hp)
        space.merge([found for found in hp.space if not space._exists(found.name, found.conditions)])
        for scope in hp.active_scopes:
            seen += [] if scope in seen else [list(scope)]
            open_scopes = [other for other in open_scopes if other != scope]
        open_scopes += [list(scope) for scope in hp.inactive_scopes if scope not in seen and scope not in open_scopes]
        if not open_scopes:
            return space
        hp = space.copy()
        seen.append(open_scopes[0])  # a branch that cannot be reached is not tried for ever
        for condition in open_scopes.pop(0):
            hp.values[condition.name] = condition.values[0]
        hp.ensure_active_values()
