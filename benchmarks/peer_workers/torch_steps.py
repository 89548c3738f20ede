"""What the workers on torch share: threads, synthetic batches as tensors, counts of parameters."""

import itertools

import numpy as np
import torch


def start(config):
    """Sets threads and seed of the process."""
    torch.set_num_threads(config["threads"])
    torch.manual_seed(config["seed"])


def tensors(data):
    """Returns the synthetic batches with torch tensors for arrays and int64 ids, as torch's own loaders give them."""
    return [{k: torch.from_numpy(v.astype(np.int64) if v.dtype == np.int32 else v) for k, v in batch.items()} for batch in data]


def cycle(batches, train):
    """Returns a step function that feeds the batches in turn to `train(batch) -> loss tensor` and reads the loss."""
    source = itertools.cycle(batches)

    def step():
        return train(next(source)).item()

    return step


def parameters(model):
    """Returns `{"dense": n, "embedding": n}`: the weights of every `nn.Embedding`, each once, and all others."""
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    everything = {id(p): p.numel() for p in model.parameters() if p.requires_grad}
    return {"dense": sum(n for key, n in everything.items() if key not in tables), "embedding": sum(tables.values())}


def versions():
    """Returns the versions of torch and NumPy."""
    return {"torch": torch.__version__, "numpy": np.__version__}
