"""Worker of `benchmarks.peers` for plain torch: DCN with one fused table, `SparseAdam` or dense `Adam`, an ordinary training loop."""

import torch
from torch import nn

from benchmarks.peer_workers import architectures, synthetic, torch_steps
from benchmarks.peer_workers.protocol import Unavailable


class DCN(nn.Module):
    """Vector crosses beside an MLP on `[rows of the fields || value * vector of the numbers]`; returns logits `(B, 1)`.

    The tables are one `nn.Embedding`: the ids of field f are shifted by the sizes of the tables before it, within the step.
    """

    def __init__(self, sizes, *, sparse):
        super().__init__()
        size, width = architectures.MODELS["DCN"], architectures.EMBEDDING_DIM
        offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets)
        self.table = nn.Embedding(sum(sizes), width, sparse=sparse)
        nn.init.normal_(self.table.weight, std=0.01)
        self.scale = nn.Parameter(torch.empty(architectures.NUM_NUMERIC, width))
        nn.init.xavier_uniform_(self.scale)
        total = width * (len(sizes) + architectures.NUM_NUMERIC)
        self.kernels = nn.ModuleList(nn.Linear(total, 1, bias=False) for _ in range(size["cross_layers"]))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(total)) for _ in range(size["cross_layers"]))
        widths = [total, *size["hidden_units"]]
        steps = [layer for a, b in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*steps)
        self.logit = nn.Linear(total + widths[-1], 1)

    def forward(self, ids, numeric):
        fields = self.table(ids + self.offsets)  # (B, F, D)
        x0 = torch.cat([fields, numeric.unsqueeze(-1) * self.scale], dim=1).flatten(1)  # (B, (F + N) D)
        x = x0
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = x0 * kernel(x) + bias + x
        return self.logit(torch.cat([x, self.mlp(x0)], dim=1))


def build(config):
    """Builds the model and its step, see `protocol.serve`."""
    if config["model"] != "DCN":
        raise Unavailable(f"the plain torch worker builds DCN only, not {config['model']}")
    torch_steps.start(config)
    sizes, data = synthetic.of_config(config)
    model = DCN(sizes, sparse=config["sparse"])
    rest = [p for p in model.parameters() if p is not model.table.weight]
    rate = architectures.LEARNING_RATE
    if config["sparse"]:
        optimizers = [torch.optim.SparseAdam([model.table.weight], lr=rate), torch.optim.Adam(rest, lr=rate)]
    else:
        optimizers = [torch.optim.Adam(model.parameters(), lr=rate)]
    loss_function = nn.BCEWithLogitsLoss()

    def train(batch):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = loss_function(model(batch["ids"], batch["numeric"]), batch["label"])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss

    return {
        "step": torch_steps.cycle(torch_steps.tensors(data), train),
        "parameters": torch_steps.parameters(model),
        "versions": torch_steps.versions(),
        "notes": ["SparseAdam on the table, Adam on the rest" if config["sparse"] else "dense Adam", "one fused table"],
    }
