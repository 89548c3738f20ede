"""Plots of a search: parallel coordinates, the objective against each hyperparameter, the best so far, importance. Needs matplotlib."""

from pathlib import Path

import numpy as np

from tuning.importance import encode

_DPI = 110


def write_plots(folder, records, objective, importance=None):
    """Writes PNG files and returns their paths; none if fewer than two trials were completed.

    Args:
        folder: Folder of the plots, made if it is missing.
        records: Completed trials.
        objective: `Objective`.
        importance: What `tuning.importance.importance` returned.

    Raises:
        ImportError: If matplotlib is missing.
    """
    import matplotlib

    matplotlib.use("Agg")
    if len(records) < 2:
        return []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = sorted(records, key=lambda r: r["number"])
    names, columns = encode(records)
    scores = np.array([r["objective"] for r in records])
    figures = {"progress": _progress(scores, objective)}
    if names:
        figures["parallel"] = _parallel(names, columns, records, scores, objective)
        figures["parameters"] = _parameters(names, columns, records, scores, objective)
    if importance and importance["importance"]:
        figures["importance"] = _importance(importance)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=_DPI, bbox_inches="tight")
    return paths


def _figure(rows=1, columns=1, size=(6, 4)):
    from matplotlib.figure import Figure  # without pyplot there is no global list of figures to close

    figure = Figure(figsize=size)
    return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()


def _progress(scores, objective):
    figure, (axis,) = _figure()
    best = np.maximum.accumulate(scores) if objective.direction == "max" else np.minimum.accumulate(scores)
    axis.plot(np.arange(1, len(scores) + 1), scores, "o", ms=4, alpha=0.6, label="trial")
    axis.step(np.arange(1, len(scores) + 1), best, where="post", label="best so far")
    axis.set_xlabel("completed trials")
    axis.set_ylabel(objective.text)
    axis.legend()
    return figure


def _marks(name, column, records, most=6):
    """Returns `(places, texts)` of an axis: the values themselves, or some of them."""
    values = [r["parameters"].get(name) for r in records]
    marks = sorted({(place, _text(value)) for place, value in zip(column, values, strict=True)})
    step = max(1, -(-len(marks) // most)) if len(marks) > most else 1
    marks = marks[::step]
    return [place for place, _ in marks], [text for _, text in marks]


def _text(value):
    if value is None:
        return "inactive"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parallel(names, columns, records, scores, objective):
    """Every trial is a line across the hyperparameters; its colour and its end are the objective."""
    from matplotlib import cm, colors

    figure, (axis,) = _figure(size=(max(6, 1.5 * (len(names) + 1)), 4.5))
    table = np.column_stack([columns, scores])
    low, high = table.min(axis=0), table.max(axis=0)
    table = (table - low) / np.where(high > low, high - low, 1)
    norm = colors.Normalize(scores.min(), scores.max() if scores.max() > scores.min() else scores.min() + 1)
    order = np.argsort(scores if objective.direction == "max" else -scores)  # the best on top
    for i in order:
        axis.plot(range(table.shape[1]), table[i], color=cm.viridis(norm(scores[i])), alpha=0.7, lw=1.2)
    for place, name in enumerate(names):
        axis.axvline(place, color="0.8", lw=0.8, zorder=0)
        places, texts = _marks(name, columns[:, place], records)
        for at, text in zip(places, texts, strict=True):
            axis.text(place, (at - low[place]) / (high[place] - low[place]), text, fontsize=7, ha="right")
    axis.set_xticks(range(table.shape[1]), [*names, objective.text], rotation=25, ha="right", fontsize=8)
    axis.set_yticks([])
    figure.colorbar(cm.ScalarMappable(norm, "viridis"), ax=axis, label=objective.text)
    return figure


def _parameters(names, columns, records, scores, objective):
    width = min(3, len(names))
    rows = -(-len(names) // width)
    figure, axes = _figure(rows, width, size=(3.6 * width, 2.8 * rows))
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for place, name in enumerate(names):
        axis = axes[place]
        axis.plot(columns[:, place], scores, "o", ms=4, alpha=0.6)
        axis.set_xticks(*_marks(name, columns[:, place], records), rotation=30, fontsize=7)
        axis.set_xlabel(name, fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
    axes[0].set_ylabel(objective.text, fontsize=8)
    figure.subplots_adjust(hspace=0.6, wspace=0.35)
    return figure


def _importance(document):
    found = document["importance"]
    figure, (axis,) = _figure(size=(6, 0.4 * len(found) + 1.2))
    names = list(found)[::-1]
    axis.barh(names, [found[n]["mean"] for n in names], xerr=[found[n]["deviation"] for n in names], color="C0", alpha=0.8)
    axis.set_xlabel(f"fall of R² on unseen trials (R² {document['r2']:.2f}, {document['trials']} trials)", fontsize=8)
    return figure
