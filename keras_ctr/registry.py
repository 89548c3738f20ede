"""The list of architectures: factories register themselves here and are found by name or trait. Standard library only."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from keras_ctr.schema import nearest


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered architecture without building it.

    Attributes:
        name: Name of the factory, as in `keras_ctr.models`.
        factory: The factory function `(schema, *, ...) -> keras.Model`.
        paper: Address of the paper.
        sequential: Whether the architecture models the order or the target-relevance of behaviour sequences itself.
        multi_task: Whether its structure depends on the labels (other models share everything but the last layer).
        summary: First line of the factory's docstring.
    """

    name: str
    factory: Callable
    paper: str | None
    sequential: bool
    multi_task: bool
    summary: str


_MODELS: dict[str, ModelInfo] = {}


def register_model(*, paper: str | None, sequential: bool = False, multi_task: bool = False):
    """Decorator that lists a model factory under its function name.

    Raises:
        ValueError: If the name is taken, if the first parameter is not `schema`, or if another parameter is not keyword-only.
    """

    def register(factory):
        name = factory.__name__
        if name in _MODELS:
            raise ValueError(f"a model named '{name}' is registered already")
        parameters = list(inspect.signature(factory).parameters.values())
        if not parameters or parameters[0].name != "schema":
            raise ValueError(f"model factory '{name}' must take 'schema' first")
        positional = [p.name for p in parameters[1:] if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        if positional:
            raise ValueError(f"model factory '{name}': {positional} must be keyword-only")
        summary = (inspect.getdoc(factory) or "").split("\n", 1)[0]
        _MODELS[name] = ModelInfo(name, factory, paper, sequential, multi_task, summary)
        return factory

    return register


def list_models(**traits) -> list[str]:
    """Returns the names of the registered models, sorted, that have all the given traits.

    Example:
        >>> keras_ctr.list_models(sequential=True)
        ['CAN', 'DIN', 'InterFormer']

    Raises:
        ValueError: On an unknown trait.
    """
    known = ("sequential", "multi_task")
    for trait in traits:
        if trait not in known:
            raise ValueError(f"unknown trait '{trait}'{nearest(trait, known)}; known traits: {', '.join(known)}")
    return sorted(name for name, info in _MODELS.items() if all(getattr(info, k) == v for k, v in traits.items()))


def model_info(name: str) -> ModelInfo:
    """Returns what is registered under a name (upper and lower case are the same).

    Raises:
        ValueError: With the nearest name if there is none.
    """
    by_lower = {key.lower(): key for key in _MODELS}
    if str(name).lower() not in by_lower:
        raise ValueError(f"no model '{name}'{nearest(name, _MODELS)}; models: {', '.join(sorted(_MODELS))}")
    return _MODELS[by_lower[str(name).lower()]]


def get_model(name: str, schema, **arguments):
    """Builds a registered model: `get_model("DCNv2", schema, rank=32)` is `keras_ctr.models.DCNv2(schema, rank=32)`.

    Raises:
        ValueError: If there is no such model, or an argument that its factory does not take (with the nearest one).
    """
    info = model_info(name)
    known = [p for p in inspect.signature(info.factory).parameters if p != "schema"]
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"{info.name} has no argument '{argument}'{nearest(argument, known)}; arguments: {', '.join(known)}")
    return info.factory(schema, **arguments)
