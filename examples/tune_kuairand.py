"""Search hyperparameters of two models on the KuaiRand extract at equal budgets, and train the best one from its file.

python examples/tune_kuairand.py          (needs the extra `tuning`)
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json

from keras_ctr.cli.progress import progress_bars
from keras_ctr.cli.runs import RunConfig, evaluate, train
from keras_ctr.data import prepare
from keras_ctr.datasets import kuairand
from tuning.compare import compare
from tuning.search import load_result


def space(hp):
    """Your own space: whatever `hp` draws becomes an argument of the factory. Leave it out for the model's own (`tuning.spaces`)."""
    return {"embedding_dim": hp.Choice("embedding_dim", [4, 8, 16]), "embedding_l2": hp.Choice("embedding_l2", [0.0, 1e-6, 1e-5])}


def training(hp):
    return {"optimizer": "default", "learning_rate": hp.Float("learning_rate", 1e-3, 1e-2, sampling="log"), "batch_size": 2048}


def main(folder=None, trials=3, epochs=2):
    folder = Path(folder or tempfile.mkdtemp())
    options = {"labels": ("is_click",), "histories": ()}
    data = prepare(kuairand.load(**options), kuairand.schema(**options), folder / "data")

    # The command line does the same:
    # keras-ctr tune data --model FM --model FmFM --trials 3 --epochs 2 --seeds 2 --out search
    with progress_bars() as progress:
        board = compare(
            folder / "data",
            folder / "search",
            ["FM", "FmFM"],
            space=space,
            training=training,
            trials=trials,
            fixed={"epochs": epochs},
            seeds=2,
            progress=progress,
            tell=print,
        )
    for entry in board["models"]:
        auc = entry["validation"]["is_click"]["auc"]
        print(f"{entry['model']:<6} validation AUC {auc['mean']:.4f} ± {auc['deviation']:.4f} over {len(entry['seeds'])} seeds")

    best = load_result(folder / "search" / board["models"][0]["model"])
    # keras-ctr train data --config search/<model>/best.json --out run
    config = RunConfig.from_dict(json.loads(best.best_config.read_text(encoding="utf-8")))
    model, _, _ = train(data, config)
    print("test:", {k: round(v, 4) for k, v in evaluate(model, data, "test")["is_click"].items()})
    return board, best


if __name__ == "__main__":
    main(*sys.argv[1:2])
