"""DynInt: polynomial interactions that depend on the row."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model

VARIANTS = ("da", "dgp", "dwp")


@register_model(paper="https://arxiv.org/abs/2301.08139")
def DynInt(
    schema,
    *,
    variant="dgp",
    embedding_dim=16,
    num_layers=3,
    num_subspaces=4,
    rank=None,
    reduction_ratio=4,
    gate="bit",
    offset="inv_sqrt_rank",
    orthogonality=0.0,
    gate_norm=False,
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dyn_int",
):
    """DynInt: xDeepInt with instance-aware gates or parameters (Yan and Li, DLP-KDD 2022).

    On the tokens X_0 `(F, D)` crossed into h subspaces, F' = hF, `X_l = X_{l-1} * P_l + X_{l-1}`, `logit = sum_d (w . X_L[:, d] + b)`,
    `P_l = (W X_0) * G` (da), `U diag(s) V^T X_0` (dgp), `(G * W) X_0` with G of rank K (dwp); the gates and scales come from
    a two-layer network on sg(X_0) and are neutral at the start. Parameters: see the three layers, and F + 1 for one label.
    Optimizer: `keras_ctr.optimizers.dynint()`, the paper's composite, which was the best one here too (docs/deviations.md).

    Args:
        schema: The fitted `Schema`. The authors bin all numeric features (`Numeric(transform="log_square")`).
        variant: `"da"` dynamic activation, `"dgp"` dynamic generated parameters or `"dwp"` dynamic weighted parameters. In the paper dgp
            was best on Avazu and iPinYou, dwp on Criteo; dgp is also the cheapest, hence the default.
        embedding_dim: D, the width of an embedding.
        num_layers: L; 1 to 4 searched, 3 "generally a good choice" (section 4.4.2).
        num_subspaces: h, a divisor of D; 1 to 16 searched at D = 16, 16 best on Criteo, 4 on Avazu and iPinYou.
        rank: K. None: 2 for dwp (1 to 4 searched); for dgp, F' / 10, at least 16 and at most F' (16 to 128 searched, 64 best at
            F' = 624). Not for da.
        reduction_ratio: r of the gate networks (2 to 16 searched, little effect).
        gate: `gate` of `layers.DynamicActivationGate`; da only.
        offset: `offset` of `layers.DynamicWeightedInteraction`; dwp only.
        orthogonality: Weight of the orthogonality penalty; dgp and dwp.
        gate_norm: Whether the gate networks read X_0 normalised, `normalize` of `layers.GateNetwork`. Not in the paper; without, small
            embeddings leave gates nearly alike for all rows (docs/tuning.md has what that changes).
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a `rank` or `orthogonality` for da.
    """
    if variant not in VARIANTS:
        raise ValueError(f"DynInt: variant must be one of {VARIANTS}, got {variant!r}")
    if variant == "da" and (rank is not None or orthogonality):
        raise ValueError("DynInt: rank and orthogonality have no meaning with variant='da'; leave them out or choose 'dgp' or 'dwp'")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    shared = {"num_subspaces": num_subspaces, "reduction_ratio": reduction_ratio, "gate_norm": gate_norm, "name": "interaction"}
    if variant == "da":
        interaction = layers.DynamicActivationGate(num_layers, gate=gate, **shared)
    elif variant == "dgp":
        crossed = num_subspaces * tokens.shape[1]  # F'
        rank = min(crossed, max(16, crossed // 10)) if rank is None else rank
        interaction = layers.DynamicGeneratedInteraction(num_layers, rank=rank, orthogonality=orthogonality, **shared)
    else:
        rank = 2 if rank is None else rank
        interaction = layers.DynamicWeightedInteraction(num_layers, rank=rank, offset=offset, orthogonality=orthogonality, **shared)
    values = layers.FeatureMapLogits(len(schema.labels), dtype="float32", name="logits")(interaction(tokens))  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
