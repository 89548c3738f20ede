"""The architectures that every package builds, with their sizes, and which packages build which. Standard library only."""

EMBEDDING_DIM = 16
NUM_FIELDS = 26
NUM_NUMERIC = 13
HISTORY_LENGTH = 100
HISTORY_FIELD = 2  # the history of DIN reads the table of this field, one of the largest; the field is its target
BATCH_SIZE = 4096
LEARNING_RATE = 1e-3

# Tokens of every model but DIN: 26 fields, and 13 numbers as `value * learned vector`; 39 x 16 = 624 inputs. DIN has the 26 fields and one
# history, no numbers. No dropout, batch normalisation (but Dice's own) or regularisation anywhere.
MODELS = {
    "DCN": {"cross_layers": 3, "hidden_units": (256, 128)},  # vector crosses parallel with the MLP
    "DCNv2": {"cross_layers": 3, "hidden_units": (512, 256)},  # full-matrix crosses parallel with the MLP
    "DeepFM": {"hidden_units": (256, 128)},
    "xDeepFM": {"cin_units": (32, 32, 32), "hidden_units": (256, 128)},  # CIN without activation, with biases, every layer read in full
    "AutoInt": {"num_layers": 3, "num_heads": 2, "key_dim": 16},  # key_dim: of a head; shortcut projection in every layer; no MLP
    "Wukong": {  # tokens a layer = fm_tokens + linear_tokens; projection k of X (X^T Y)
        "num_layers": 2,
        "fm_tokens": 16,
        "linear_tokens": 16,
        "rank": 8,
        "fm_hidden_units": (128,),
        "hidden_units": (256, 128),
    },
    "DIN": {"attention_units": (80, 40), "hidden_units": (200, 80)},  # Dice in both, no softmax
}

OURS = "keras_ctr"

# name -> worker module, environment, and what is added to the worker's configuration or its process' environment.
PEERS = {
    OURS: {"module": "keras_ctr_worker", "environment": "running"},
    "keras_ctr_bfloat16": {"module": "keras_ctr_worker", "environment": "running", "config": {"dtype": "mixed_bfloat16"}},
    "keras": {"module": "keras_worker", "environment": "running"},
    "keras_rs": {"module": "keras_rs_worker", "environment": "keras_rs"},
    "deepctr": {"module": "deepctr_worker", "environment": "deepctr"},
    "torch_sparse": {"module": "torch_worker", "environment": "torch", "config": {"sparse": True}},
    "torch_sparse_malloc": {"module": "torch_worker", "environment": "torch", "config": {"sparse": True}, "malloc": True},
    "torch_dense": {"module": "torch_worker", "environment": "torch", "config": {"sparse": False}},
    "torch_dense_malloc": {"module": "torch_worker", "environment": "torch", "config": {"sparse": False}, "malloc": True},
    "fuxictr": {"module": "fuxictr_worker", "environment": "torch"},
    "fuxictr_malloc": {"module": "fuxictr_worker", "environment": "torch", "malloc": True},
}
PAIRED = ("keras_ctr_bfloat16", "keras", "fuxictr", "fuxictr_malloc")  # peers of the models other than DCN
DEFAULT_ROWS = {"DCN": (100_000, 1_000_000, 10_000_000)}  # the other models: 100,000 only

# glibc gives freed blocks back to the system and faults every page in again at the next step; with these it keeps them.
MALLOC = {name: "4294967296" for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")}


def peers_of(model):
    """Returns the names of the peers that build a model, without ours."""
    return tuple(name for name in PEERS if name != OURS) if model == "DCN" else PAIRED


def rows_of(model, rows=None):
    """Returns the table sizes at which a model is timed: those asked for, of which models other than DCN take the smallest only."""
    if model in DEFAULT_ROWS:
        return tuple(rows or DEFAULT_ROWS[model])
    return (min(rows),) if rows else (100_000,)
