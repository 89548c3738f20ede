"""Writes the tables of README.md from benchmarks/results/*.json.

python -m benchmarks.readme
"""

import json
from pathlib import Path

from benchmarks.kuairand import markdown, summarise

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures: python -m benchmarks.readme -->", "<!-- end of figures -->"

TEXTS = {
    "kuairand_full": (
        "KuaiRand-Pure, `is_click`, all files: {train:,} training rows (04-25 to 04-29), {validation:,} validation (04-30), {test:,} test "
        "(05-01 to 05-08). Test split, {seeds} seeds, mean ± standard deviation; settings and stopping by validation only "
        "(`python -m benchmarks.kuairand --raw DIR --seeds 3 --out DIR`). GBDT is scikit-learn's histogram gradient boosting, its "
        'histories are counts. DIN, InterFormer and "GBDT + histories" see behaviour sequences, the others fields only. Seconds of '
        "training were taken with one thread on a busy machine."
    ),
    "kuairand_extract": (
        "The extract that ships with the package ({train:,} / {validation:,} / {test:,} rows), {seeds} seed: what `script/demo` prints, "
        "2 cores. {difference}"
    ),
}


def section():
    """Returns the Markdown between the markers."""
    parts = []
    for name, text in TEXTS.items():
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        if not path.exists():
            continue
        document = json.loads(path.read_text())
        seeds = len({r["seed"] for r in document["results"]})
        found = document.get("largest_difference")
        difference = (
            "" if found is None else f"Largest difference of the served InterFormer from `predict` over 1,000 raw rows: {found:.1e}."
        )
        parts.append(
            text.format(seeds=seeds, difference=difference, **document["data"]["rows"]).strip()
            + "\n\n"
            + markdown(summarise(document["results"]))
        )
    return "\n".join(parts)


def main():
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN, 1)
    path.write_text(head + BEGIN + "\n" + section() + END + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
