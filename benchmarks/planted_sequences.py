"""Does each sequence model learn what it is for? Trains them on planted effects of histories with a known best AUC.

    python -m benchmarks.planted_sequences --out benchmarks/results/planted_sequences.json      all tasks
    python -m benchmarks.planted_sequences --out FILE --tasks flows --seeds 1

Splits, seeds and `gap closed` are those of `benchmarks.planted`, the learning rate is one for all models of a task: a new planted
function for every seed, the oldest 70 % of the rows for training, the next 10 % for validation, the newest 20 % for test. There are
50,000 rows of four fields of eight values, a candidate out of 32 items and histories of up to 12 events (other sizes stand in `TASKS`
and `TIMES`). Half of the labels are 1: gates then show nothing of themselves in lower orders.

Tasks (`keras_ctr.data.synthetic.make_synthetic`; all have linear effects of the fields, so that LR has something to find):

- match: events of the candidate's kind count, all alike. There are 16 kinds, twice as many as an embedding has elements: a mean of
  embeddings cannot hold how many events there are of each kind, whatever crosses it with the candidate afterwards.
- order: every event of kind A before one of kind B counts for, every B before an A against. Not `transitions`: those only count for
  neighbours, which a model that weighs events by their place (DMR, TBSM) cannot express, and take more rows than there are here.
- flows: pairwise effects of two fields, and two flows: a field picks the kind of events that count (fields to sequence), and the history
  gives the pairwise effects their sign and size (sequence to fields). Three fields, 16 items of four kinds. InterFormer's five modes have a
  linear head: what is to be multiplied has to meet in the layers, where an MLP over both summaries would join what `mode` keeps apart. What
  a one-way mode lacks is not impossible to it, only harder: few kinds fit into a summary, so fields can find theirs there (`s2n`), and a
  product of the pairwise effects with the history can be formed in either stream (`n2s`).
- exchange: two flows that do not fit into a summary. Events of the candidate's kind count as in match (fields to sequence: 16 kinds are
  more than a summary holds), and the history gives the pairwise effects of two pairs of fields their sign and size (sequence to fields:
  four fields and the candidate are more than a summary holds). InterFormer has one layer, one head of attention
  (eight elements to tell 16 kinds apart), summaries of one token each way and a linear head: what is to meet has to meet in this layer.
  With more layers or tokens a one-way mode could do it all in the stream that it has.
  Twice the rows, and 3e-3 as learning rate: with 50,000 rows, or 7e-3, `int` learned the second flow alone in first trials (validation).

Who can see the order (`ORDER_AWARE`), by the form that is trained here:

- LR, DNN, DCNv2: the mean of the events. CAN: a sum over events of functions of candidate and event. DIN: a sum with weights that depend
  on candidate and event alone. None of them sees it.
- SIM, ETA: two such sums, one over the events found (here all of them: 50 are searched for) and one over the newest ten: of a history of
  up to ten events they see no order, of a longer one which events are its newest ten.
- RankMixer: a sum as DIN's. INFNet: each event carries a learned vector for its place. OneTrans: that too, and causal attention.
- DIEN: GRUs. BST: a learned vector for each place. HSTU: a bias for each distance, inside the activation, and causal attention.
  InterFormer: rotary positions, and the newest events as tokens of their own.
- DMIN: causal attention (an event knows those before it) and queries that know the place. DMR: queries that know the place, so each event
  is weighed by it, but no event meets another. TBSM, AdRecSequential: the weight of an event comes from an MLP whose inputs are in order.
- TransAct: its encoder has no positions; the outputs of the newest ten events enter the MLP side by side, in order. Older ones only count
  as a set.

All models have narrow layers (`SMALL`). No auxiliary loss: the data have no sampled negatives.
"""

import argparse
import inspect
import json
import math
import sys

import numpy as np

from benchmarks import planted

ROWS = 50_000
LENGTH = 12
"""Longest history."""
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
COMMON = {"linear": 0.5, "num_fields": 4, "num_items": 32, "max_length": LENGTH, "half_life": math.inf, "base_rate": 0.5}
TASKS = {
    "match": {"sequence": 1.5, "num_interests": 16},
    "order": {"order_matters": 1.5},
    "flows": {"pairwise": 1.0, "bidirectional": 2.0, "num_fields": 3, "num_items": 16, "num_interests": 4},
    "exchange": {
        **{"pairwise": 1.0, "history_gated": 1.5, "sequence": 2.5, "num_interests": 16},
        **{"pairs": ((0, 1), (2, 3)), "gate_fields": ()},
    },
}
TIMES = {"exchange": 2}
"""Tasks with this times as many rows."""
TITLES = {
    "match": "events like the candidate",
    "order": "order of events",
    "flows": "flows both ways",
    "exchange": "more than a summary holds",
}
SMALL = {
    "embedding_dim": 8,
    "hidden_units": (32, 16),
    "attention_units": (16, 8),
    "num_heads": 2,
    "ffn_units": 32,
    "interaction_units": (64,),
    "dot_units": (32,),
    "rank": 8,
    "num_summary": 2,
    "num_cls": 2,
    "num_pma": 1,
    "window": LENGTH,
}
"""Arguments that every factory gets which has them."""
OWN = {"BST": {"num_recent": LENGTH}, "HSTU": {"max_length": LENGTH + 1}, "InterFormer": {"num_recent": 1}}
"""Arguments whose names mean other things elsewhere."""
GRID = [{"learning_rate": 7e-3}]
"""One for all, the middle of what first trials tried (validation): a grid would double the cost."""
GRIDS = {"exchange": [{"learning_rate": 3e-3}]}
SLOWER = {"learning_rate": 2e-3}
AGAIN = ("AdRecSequential", "INFNet", "OneTrans", "TBSM")
"""Models that found nothing in match, or not with every seed: rows of their own say whether that is the rate."""
TRAINING = {"batch_size": 512, "epochs": 25, "patience": 3}
LONG = {"batch_size": 512, "epochs": 40, "patience": 12}
TRAININGS = {"match": LONG, "flows": LONG, "exchange": LONG}
"""In trials (validation) transformers stood at the level of LR for up to ten epochs of match before they found the effect within two."""
EPSILONS = {"order": {"layer_norm_epsilon": 1e-6}, "flows": {"layer_norm_epsilon": 1e-6}}
"""Ids are seen thousands of times here: with a small epsilon attention starts at once. In match InterFormer found nothing with it."""
POOLED = ("LR", "DNN", "DCNv2")
"""Models that take the mean of a history by themselves."""
MODES = ("int", "s2n", "n2s", "sep", "sole")
INTERFORMER = {
    "flows": {"hidden_units": ()},
    "exchange": {"hidden_units": (), "num_layers": 1, "num_heads": 1, "num_summary": 1, "num_cls": 1, "use_recent": False},
}
"""What InterFormer's modes have in the tasks of flows."""
ORDER_AWARE = {
    "LR": "no",
    "DNN": "no",
    "DCNv2": "no",
    "CAN": "no",
    "DIN": "no",
    "SIM": "beyond ten events",
    "ETA": "beyond ten events",
    "DIEN": "recurrence",
    "BST": "positions",
    "DMIN": "causal, positions",
    "DMR": "positions",
    "HSTU": "causal, positions",
    "TBSM": "positions",
    "AdRecSequential": "positions",
    "TransAct": "newest ten",
    "InterFormer": "positions",
    "INFNet": "positions",
    "RankMixer": "no",
    "OneTrans": "causal, positions",
}
"""What a model knows of the order of events, and by what; the reasons stand in the docstring of this module."""


def case(task, name, model, arguments=None):
    """Returns one case of `benchmarks.selection`."""
    from keras_ctr import models

    known = inspect.signature(getattr(models, model)).parameters
    shared = {k: v for k, v in {**SMALL, **EPSILONS.get(task, {})}.items() if k in known}
    arguments = {**shared, **OWN.get(model, {}), **(arguments or {})}
    return {
        "name": f"{task}/{name}",
        "data": task,
        "model": model,
        "arguments": json.loads(json.dumps(arguments)),
        **TRAININGS.get(task, TRAINING),
        **({"grid": GRIDS[task]} if task in GRIDS else {}),
    }


def cases(tasks):
    """Returns all cases of the tasks."""
    from keras_ctr import list_models

    sequential = list_models(sequential=True)
    out = []
    for task in tasks:
        if task in INTERFORMER:
            out += [case(task, model, model, {}) for model in ("LR", "DNN", "DHEN", "DIN")]
            modes = {f"InterFormer, {mode}": {**INTERFORMER[task], "mode": mode} for mode in MODES}
            out += [case(task, name, "InterFormer", arguments) for name, arguments in modes.items()]
        else:
            out += [case(task, model, model) for model in (*POOLED, *sequential) if task == "match" or model != "DCNv2"]
        if task == "match":
            out += [{**case(task, f"{model}, rate 2e-3", model), "grid": [SLOWER]} for model in AGAIN]
    return out


def parts(task, seed):
    """Returns `{split: SyntheticData}` of one draw of a task."""
    from keras_ctr.data.synthetic import make_synthetic

    data = make_synthetic(ROWS * TIMES.get(task, 1), seed=seed, **{**COMMON, **TASKS[task]})
    return dict(zip(SPLITS, data.split(SPLITS.values()), strict=True))


def load(task, seed):
    """Returns `(schema, label rates, splits)` of one draw of a task."""
    drawn = parts(task, seed)
    splits = {name: (part.features, part.labels) for name, part in drawn.items()}
    return drawn["train"].schema, {"click": float(drawn["train"].labels["click"].mean())}, splits


def best_aucs(task, seeds):
    """Returns the AUC of the true probabilities on the test rows drawn, one a seed."""
    from keras_ctr import metrics

    tests = [parts(task, seed)["test"] for seed in range(1, seeds + 1)]
    return [float(metrics.auc(test.labels["click"], test.probability["click"])) for test in tests]


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--models", nargs="*", help="only cases whose names end in one of these; LR always")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    todo = cases(arguments.tasks)
    if arguments.models:
        todo = [c for c in todo if c["name"].split("/", 1)[1] in ("LR", *arguments.models)]
    best = {task: best_aucs(task, arguments.seeds) for task in TASKS}
    document = select(
        todo, load, arguments.out, grid=GRID, seeds=arguments.seeds, jobs=arguments.jobs, note={"best_auc": best, "rows": ROWS}
    )
    for line in planted.lines(document):
        sys.stdout.write(line + "\n")


def ranked(document, task):
    """Returns the names of a task's models, without the task, that close the most of the gap first."""
    names = [name for name in {r["name"]: None for r in document["results"]} if name.startswith(f"{task}/")]
    names.sort(key=lambda name: -np.mean(planted.gap_closed(document, name)))
    return [name.split("/", 1)[1] for name in names]


def tables(document):
    """Returns `{"planted_match": markdown, "planted_order": .., ...}` for docs/sequences.md."""
    if not document:
        return {f"planted_{task}": "not measured\n" for task in TASKS}
    out = {}
    for task in TASKS:
        order = task == "order"
        rows = ["| model | sees order | AUC | gap closed |", "| --- | --- | --: | --: |"] if order else []
        rows = rows or ["| model | AUC | gap closed |", "| --- | --: | --: |"]
        for name in ranked(document, task):
            auc, closed = planted.aucs(document, f"{task}/{name}"), planted.gap_closed(document, f"{task}/{name}")
            known = f" {ORDER_AWARE[name]} |" if order else ""
            rows.append(f"| {name} |{known} {planted.spread(auc)} | {planted.spread(closed, percent=True)} |")
        seeds = max((r["seed"] for r in document["results"] if r["name"].startswith(f"{task}/")), default=0)
        best = planted.spread(document["best_auc"][task][:seeds]) if seeds else "not measured"
        rows.append(f"| *true probabilities* |{' |' if order else ''} {best} | |")
        out[f"planted_{task}"] = "\n".join(rows) + "\n"
    return out


def draw(document, path):
    """Draws what each model closes of the gap, one panel a task that was run; models blind to the order of events are pale in `order`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {task: found[::-1] for task in TASKS if (found := ranked(document, task))}
    height = 0.24 * max(len(found) for found in names.values()) + 1
    figure, axes = pyplot.subplots(1, len(names), figsize=(1 + 3.5 * len(names), height), layout="constrained", squeeze=False)
    for axis, (task, found) in zip(axes[0], names.items(), strict=True):
        closed = [np.multiply(planted.gap_closed(document, f"{task}/{name}"), 100) for name in found]
        pale = [task == "order" and ORDER_AWARE[name] in ("no", ORDER_AWARE["SIM"]) for name in found]
        errors = [c.std(ddof=1) if len(c) > 1 else 0.0 for c in closed]
        colors = ["#bbccdd" if p else "#4477aa" for p in pale]
        axis.barh(found, [c.mean() for c in closed], xerr=errors, color=colors, height=0.7, error_kw={"lw": 0.8})
        axis.set_xlim(-5, 102)
        axis.set_title(TITLES[task] + (" (pale: blind to it)" if task == "order" else ""), fontsize=10)
        axis.set_xlabel("% of the gap between LR and the truth")
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
