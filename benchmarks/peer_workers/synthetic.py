"""Synthetic batches for the peer benchmark: the same numbers for every package, from a seed. NumPy and the standard library only.

Tables: the cardinalities of the 26 categorical columns of the Criteo Kaggle data, all cut at one cap so that they add up to the rows
asked for. At 10,000,000 rows five fields hold 94 % of them, the smallest has 4.

Ids: rank r of a table is drawn with a density proportional to `r^-EXPONENT` (a Zipf law cut at the table's size, in its continuous form,
so that drawing needs no table of its own), then ranks are scattered over the rows: frequent rows do not lie side by side. With the
exponent 1.05 a batch of 4096 x 26 = 106,496 ids has about 26,900 distinct values at 10,000,000 rows, 25,100 at 1,000,000 and 20,400
at 100,000. Id 0 is left to padding.
"""

import math

import numpy as np

from benchmarks.peer_workers import architectures

EXPONENT = 1.05
POOL = 32
# Distinct values of C1..C26 in the training file of the Criteo Kaggle display advertising challenge.
CARDINALITIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
SMALLEST = 4


def table_sizes(rows):
    """Returns the 26 vocabulary sizes that add up to `rows`: `min(cardinality, cap)`, at least 4, the rest on the largest field.

    Raises:
        ValueError: If `rows` is under 104 (26 tables of 4).
    """
    if rows < SMALLEST * len(CARDINALITIES):
        raise ValueError(f"rows must be at least {SMALLEST * len(CARDINALITIES)}, got {rows}")
    wanted = [max(c, SMALLEST) for c in CARDINALITIES]
    low, high = SMALLEST, max(wanted)
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (cap, high) if sum(min(c, cap) for c in wanted) <= rows else (low, cap - 1)
    sizes = [min(c, low) for c in wanted]
    sizes[int(np.argmax(CARDINALITIES))] += rows - sum(sizes)
    return sizes


def draw_ids(rng, shape, size, exponent=EXPONENT):
    """Returns int32 ids in [1, size): bounded power law over ranks, ranks scattered over the rows."""
    rows = size - 1
    power = 1.0 - exponent
    u = rng.random(shape)
    ranks = np.power((float(rows + 1) ** power - 1.0) * u + 1.0, 1.0 / power).astype(np.int64) - 1  # density r^-exponent on [1, rows + 1)
    ranks = np.clip(ranks, 0, rows - 1)
    return (1 + (ranks * _coprime(rows) + 12345) % rows).astype(np.int32)


def _coprime(rows):
    """A multiplier near the golden section of `rows` without common factor: multiplying by it permutes the rows."""
    step = max(1, round(rows * 0.6180339887))
    while math.gcd(step, rows) != 1:
        step += 1
    return step


def batches(rows, *, batch_size=architectures.BATCH_SIZE, pool=POOL, seed=1, history=False, history_length=architectures.HISTORY_LENGTH):
    """Returns a pool of different batches.

    Args:
        rows: Rows of all tables together.
        batch_size: B.
        pool: Number of batches.
        seed: Seed of the generator.
        history: Whether to draw a history in the place of the numbers, as DIN has it: lengths uniform in [1, T], padded with 0 at the end.
        history_length: T.

    Returns:
        List of dicts of C-contiguous arrays: `"ids"` int32 `(B, 26)` within each table, `"label"` float32 `(B, 1)` with a mean near 1/4,
        and `"numeric"` float32 `(B, 13)` or `"history"` int32 `(B, T)`.
    """
    rng = np.random.default_rng(seed)
    sizes = table_sizes(rows)
    out = []
    for _ in range(pool):
        ids = np.stack([draw_ids(rng, batch_size, size) for size in sizes], axis=1)
        batch = {"ids": np.ascontiguousarray(ids), "label": (rng.random((batch_size, 1)) < 0.25).astype(np.float32)}
        if history:
            events = draw_ids(rng, (batch_size, history_length), sizes[architectures.HISTORY_FIELD])
            lengths = rng.integers(1, history_length + 1, size=(batch_size, 1))
            batch["history"] = np.where(np.arange(history_length) < lengths, events, 0).astype(np.int32)
        else:
            batch["numeric"] = rng.random((batch_size, architectures.NUM_NUMERIC), dtype=np.float32)
        out.append(batch)
    return out


def of_config(config):
    """Returns `(table sizes, batches)` of a worker's configuration."""
    history = config["model"] == "DIN"
    data = batches(config["rows"], batch_size=config["batch_size"], pool=config["pool"], seed=config["seed"], history=history)
    return table_sizes(config["rows"]), data


def distinct_ids(data):
    """Returns the mean number of distinct (field, id) pairs of a batch, without its history."""
    return float(np.mean([sum(len(np.unique(b["ids"][:, f])) for f in range(b["ids"].shape[1])) for b in data]))
