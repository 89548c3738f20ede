"""Worker of `benchmarks.peers` for FuxiCTR: its embedding, its layers, its `BaseModel` with its own `train_step`.

The package on PyPI holds the layers and the base class; its zoo of models, a few lines of wiring each, is only in its repository. The
wiring here is written from the papers, with the layers of the package wherever it has one. What it lacks (the interacting layer around
its dot-product attention, Wukong's layer) is plain torch. Its zoo's own Wukong compresses the flattened tokens and maps back to all of
them, which is another model; here it is the paper's, as for the other packages.
"""

import tempfile
from collections import OrderedDict
from importlib.metadata import version

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch import layers
from fuxictr.pytorch.models import BaseModel
from torch import nn

from benchmarks.peer_workers import architectures, synthetic, torch_steps

WIDTH = architectures.EMBEDDING_DIM
HISTORY_TARGET = f"C{architectures.HISTORY_FIELD + 1}"
GRADIENT_NORM = 10.0  # what the package's `fit` clips to unless told otherwise


def feature_map(sizes, name):
    """Returns the package's description of the synthetic data."""
    out = FeatureMap("synthetic", tempfile.gettempdir())
    out.labels = ["click"]
    out.default_emb_dim = WIDTH
    specs = [(f"C{f + 1}", {"source": "", "type": "categorical", "vocab_size": n, "padding_idx": 0}) for f, n in enumerate(sizes)]
    if name == "DIN":
        shared = {"share_embedding": HISTORY_TARGET, "vocab_size": sizes[architectures.HISTORY_FIELD], "padding_idx": 0}
        specs.append(("history", {"source": "", "type": "sequence", "max_len": architectures.HISTORY_LENGTH, **shared}))
    else:
        specs += [(f"I{i + 1}", {"source": "", "type": "numeric"}) for i in range(architectures.NUM_NUMERIC)]
    out.features = OrderedDict(specs)
    out.num_fields = out.get_num_fields()
    out.set_column_index()
    return out


class Interacting(nn.Module):
    """AutoInt's layer around the package's dot-product attention: unscaled, projected shortcut, ReLU."""

    def __init__(self, width, heads, key_dim):
        super().__init__()
        self.heads, self.key_dim = heads, key_dim
        self.query, self.key, self.value, self.shortcut = (nn.Linear(width, heads * key_dim, bias=False) for _ in range(4))
        self.attention = layers.ScaledDotProductAttention()

    def _split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, self.key_dim).transpose(1, 2)  # (B, H, F, d)

    def forward(self, x):
        out, _ = self.attention(self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x)))
        return torch.relu(out.transpose(1, 2).flatten(2) + self.shortcut(x))


class WukongLayer(nn.Module):
    """`LN([FMB(X) ; LCB(X)] + R(X))` with `FMB = MLP(LN(vec(X X^T Y)))`; the MLP is the package's."""

    def __init__(self, tokens, *, fm_tokens, linear_tokens, rank, hidden_units):
        super().__init__()
        self.fm_tokens = fm_tokens
        self.projection = nn.Parameter(nn.init.xavier_uniform_(torch.empty(tokens, rank)))
        self.inner_norm = nn.LayerNorm(tokens * rank)
        self.mlp = layers.MLP_Block(tokens * rank, list(hidden_units), output_dim=fm_tokens * WIDTH)
        self.linear = nn.Parameter(nn.init.xavier_uniform_(torch.empty(linear_tokens, tokens)))
        out = fm_tokens + linear_tokens
        self.residual = None if out == tokens else nn.Parameter(nn.init.xavier_uniform_(torch.empty(out, tokens)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):  # (B, F, D)
        interactions = torch.matmul(x, torch.matmul(x.transpose(1, 2), self.projection))  # (B, F, k)
        factorised = self.mlp(self.inner_norm(interactions.flatten(1))).view(-1, self.fm_tokens, WIDTH)
        shortcut = x if self.residual is None else torch.matmul(self.residual, x)
        return self.norm(torch.cat([factorised, torch.matmul(self.linear, x)], dim=1) + shortcut)


class TokenModel(BaseModel):
    """All models on 39 tokens; `name` and `size` as in `architectures.MODELS`."""

    def __init__(self, features, name, size):
        super().__init__(features, model_id=name, verbose=0, model_root=tempfile.gettempdir(), metrics=["AUC", "logloss"])
        self.name = name
        tokens = features.num_fields
        total = tokens * WIDTH
        hidden = list(size.get("hidden_units", ()))
        self.embedding_layer = layers.FeatureEmbedding(features, WIDTH)
        if name in ("DCN", "DCNv2"):
            self.crosses = (layers.CrossNet if name == "DCN" else layers.CrossNetV2)(total, size["cross_layers"])
            self.mlp = layers.MLP_Block(total, hidden)
            self.logit = nn.Linear(total + hidden[-1], 1)
        elif name == "DeepFM":
            self.fm = layers.FactorizationMachine(features)
            self.mlp = layers.MLP_Block(total, hidden, output_dim=1)
        elif name == "xDeepFM":
            self.linear = layers.LogisticRegression(features, use_bias=False)
            self.cin = layers.CompressedInteractionNet(tokens, list(size["cin_units"]))
            self.mlp = layers.MLP_Block(total, hidden, output_dim=1)
        elif name == "AutoInt":
            width = size["num_heads"] * size["key_dim"]
            widths = [WIDTH] + [width] * (size["num_layers"] - 1)
            self.attention = nn.Sequential(*(Interacting(w, size["num_heads"], size["key_dim"]) for w in widths))
            self.logit = nn.Linear(tokens * width, 1)
        else:
            made = size["fm_tokens"] + size["linear_tokens"]
            options = {key: size[key] for key in ("fm_tokens", "linear_tokens", "rank")}
            counts = [tokens] + [made] * (size["num_layers"] - 1)
            self.layers = nn.Sequential(*(WukongLayer(n, hidden_units=size["fm_hidden_units"], **options) for n in counts))
            self.mlp = layers.MLP_Block(made * WIDTH, hidden, output_dim=1)
        finish(self)

    def forward(self, inputs):
        x = self.get_inputs(inputs)
        tokens = self.embedding_layer(x)  # (B, F, D)
        flat = tokens.flatten(1)
        if self.name in ("DCN", "DCNv2"):
            logit = self.logit(torch.cat([self.crosses(flat), self.mlp(flat)], dim=-1))
        elif self.name == "DeepFM":
            logit = self.fm(x, tokens) + self.mlp(flat)
        elif self.name == "xDeepFM":
            logit = self.linear(x) + self.cin(tokens) + self.mlp(flat)
        elif self.name == "AutoInt":
            logit = self.logit(self.attention(tokens).flatten(1))
        else:
            logit = self.mlp(self.layers(tokens).flatten(1))
        return {"y_pred": self.output_activation(logit)}


class DIN(BaseModel):
    """DIN with the package's attention and Dice: 26 fields, one history whose target is one of them."""

    def __init__(self, features, size):
        super().__init__(features, model_id="DIN", verbose=0, model_root=tempfile.gettempdir(), metrics=["AUC", "logloss"])
        hidden = list(size["hidden_units"])
        self.embedding_layer = layers.FeatureEmbeddingDict(features, WIDTH)
        self.attention = layers.DIN_Attention(WIDTH, attention_units=list(size["attention_units"]), hidden_activations="Dice")
        activations = [layers.Dice(u) for u in hidden]
        self.mlp = layers.MLP_Block(features.num_fields * WIDTH, hidden, hidden_activations=activations, output_dim=1)
        finish(self)

    def forward(self, inputs):
        x = self.get_inputs(inputs)
        rows = self.embedding_layer(x)
        rows["history"] = self.attention(rows[HISTORY_TARGET], rows["history"], x["history"] != 0)
        logit = self.mlp(self.embedding_layer.dict2tensor(rows, flatten_emb=True))
        return {"y_pred": self.output_activation(logit)}


def finish(model):
    """What the package's models do at the end of their constructor, and what its `fit` does before the first step."""
    model.compile("adam", "binary_crossentropy", architectures.LEARNING_RATE)
    model.reset_parameters()
    model.model_to_device()
    model._max_gradient_norm = GRADIENT_NORM
    model.train()


def inputs_of(batch):
    """Returns a batch as the package's loaders give it: one tensor a column, ids int64."""
    out = {f"C{f + 1}": batch["ids"][:, f].contiguous() for f in range(batch["ids"].shape[1])}
    if "numeric" in batch:
        out.update({f"I{i + 1}": batch["numeric"][:, i].contiguous() for i in range(batch["numeric"].shape[1])})
    if "history" in batch:
        out["history"] = batch["history"]
    return {**out, "click": batch["label"]}


def build(config):
    """Builds the model and its step, see `protocol.serve`."""
    torch_steps.start(config)
    sizes, data = synthetic.of_config(config)
    name, size = config["model"], architectures.MODELS[config["model"]]
    features = feature_map(sizes, name)
    model = DIN(features, size) if name == "DIN" else TokenModel(features, name, size)
    return {
        "step": torch_steps.cycle([inputs_of(b) for b in torch_steps.tensors(data)], model.train_step),
        "parameters": torch_steps.parameters(model),
        "versions": {"fuxictr": version("fuxictr"), **torch_steps.versions()},
        "notes": ["wired from the layers of the PyPI package", f"its train_step clips gradients to norm {GRADIENT_NORM:g}"],
    }
