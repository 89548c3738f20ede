"""INFNet's block: hubs gather from all groups of tokens, then move the tokens of their own."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_epsilon, check_int, check_units
from keras_ctr.layers.broadcast_gated_unit import BroadcastGatedUnit, ProxyGatedUnit
from keras_ctr.layers.hub_aggregation import HubAggregation

TASK = "task"
"""The group of task tokens."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class INFNetBlock(keras.Layer):
    """Aggregate and broadcast: map `{g: (B, n_g, D)}, {j: (B, N_j, D)} -> {"hubs": {g: (B, n_g, D)}, "tokens": {j: (B, N_j, D)}}`.

    ```
    H <- HubAggregation(H, X)                       all groups of hubs read all groups of tokens
    X_g <- BroadcastGatedUnit(X_g, H_g)             for each group g of hubs; other tokens stay as they are
    ```

    Only what `hubs` holds is built: for a last block of which task tokens alone are read give it the task hubs alone.
    Parameters: those of a `HubAggregation` and of a `BroadcastGatedUnit` for each group of hubs.

    Args:
        num_heads: Heads of the cross-attention.
        hidden_units: Hidden widths of the broadcast's networks; None = `(4 D,)`.
        activation: Of their hidden layers.
        use_aggregation: False leaves out the first step.
        use_broadcast: False leaves out the second step.
        per_token: Whether token i of a group has hub i for itself: with `hubs` = `tokens` this is all-to-all attention, without hubs.
        epsilon: Of the norms, added to a token's variance.

    Call arguments:
        hubs: `{group: (B, n_g, D)}`, groups of `tokens`.
        tokens: `{group: (B, N_j, D)}`.
        mask: `(B, N_j)` bool of the tokens of the group `"sequence"`, True = valid; None = all valid. Padded tokens stay finite and mean
            nothing.
        return_attention: Whether to return `(out, {"g/j": A})` as `HubAggregation` does; `(out, {})` without aggregation.

    Raises:
        ValueError: On an argument out of range, or hubs of a group that has no tokens.

    Source: INFNet (arXiv:2508.11565, version 2, the two phases of its block).
    """

    def __init__(
        self,
        num_heads=1,
        *,
        hidden_units=None,
        activation="relu",
        use_aggregation=True,
        use_broadcast=True,
        per_token=False,
        epsilon=1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        check_epsilon(self, epsilon)
        self.num_heads = num_heads
        self.hidden_units = None if hidden_units is None else check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.use_aggregation = use_aggregation
        self.use_broadcast = use_broadcast
        self.per_token = per_token
        self.epsilon = epsilon
        self.supports_masking = True

    def _aggregation(self, **kwargs):
        return HubAggregation(self.num_heads, epsilon=self.epsilon, **kwargs)

    def _unit(self, **kwargs):
        return BroadcastGatedUnit(epsilon=self.epsilon, **kwargs)

    def build(self, hubs_shape, tokens_shape):
        for group in hubs_shape:
            if group not in tokens_shape:
                raise ValueError(f"{type(self).__name__} '{self.name}': there are hubs of '{group}', but no tokens of that group")
        if self.use_aggregation:
            self.aggregation = self._aggregation(name="aggregation", dtype=self.dtype_policy)
            self.aggregation.build(hubs_shape, tokens_shape)
        self.units = {}
        for group in sorted(hubs_shape) if self.use_broadcast else ():
            shared = {"hidden_units": self.hidden_units, "activation": self.activation, "per_token": self.per_token}
            self.units[group] = self._unit(**shared, name=f"broadcast_{group}", dtype=self.dtype_policy)
            self.units[group].build(tokens_shape[group], hubs_shape[group])
        self.built = True

    def call(self, hubs, tokens, mask=None, return_attention=False):
        attention = {}
        if self.use_aggregation:
            hubs, tokens, attention = self._aggregate(hubs, tokens, mask)
        if self.use_broadcast:
            tokens = {**tokens, **{group: unit(tokens[group], hubs[group]) for group, unit in self.units.items()}}
        out = {"hubs": {group: hubs[group] for group in sorted(hubs)}, "tokens": {group: tokens[group] for group in sorted(tokens)}}
        return (out, attention) if return_attention else out

    def _aggregate(self, hubs, tokens, mask):
        """Returns the new hubs, the tokens, and the attention."""
        hubs, attention = self.aggregation(hubs, tokens, mask=mask, return_attention=True)
        return hubs, tokens, attention

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, hubs_shape, tokens_shape):
        return {
            "hubs": {group: tuple(hubs_shape[group]) for group in sorted(hubs_shape)},
            "tokens": {group: tuple(tokens_shape[group]) for group in sorted(tokens_shape)},
        }

    def compute_output_spec(self, hubs, tokens, mask=None, return_attention=False):
        def specs(group):
            return {name: keras.KerasTensor(group[name].shape, dtype=self.compute_dtype) for name in sorted(group)}

        out = {"hubs": specs(hubs), "tokens": specs(tokens)}
        if not return_attention:
            return out
        return out, self._attention_spec(hubs, tokens) if self.use_aggregation else {}

    def _attention_spec(self, hubs, tokens):
        return self.aggregation.compute_output_spec(hubs, tokens, return_attention=True)[1]

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "hidden_units": None if self.hidden_units is None else list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "use_aggregation": self.use_aggregation,
            "use_broadcast": self.use_broadcast,
            "per_token": self.per_token,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class INFNetV1Block(INFNetBlock):
    """INFNet's first version of a block: map `{g: (B, n_g, D)}, {j: (B, N_j, D)} -> {"hubs": {...}, "tokens": {...}}`, shapes kept.

    ```
    H_g <- H_g + sum_{j != g} CA(H_g, X_j, X_j)                 H = proxies
    T^   = T   + sum_{j != task} CA(T, X_j, X_j)                task tokens read like their proxies, by the same maps
    X_g <- ProxyGatedUnit(X_g, H_g)                             T^ in the place of T
    ```

    There is no norm. Without broadcast or with `per_token` the hubs of `"task"` are the task tokens themselves, and nothing is read twice.
    Parameters: those of a `HubAggregation(fusion="sum")` and of a `ProxyGatedUnit` for each group of hubs.

    Args:
        num_heads: Heads of the cross-attention.
        residual: Whether what is read is added to the one who reads; False is the letter of the equations.
        **kwargs: Further arguments of `INFNetBlock`; `epsilon` has no effect.

    Call arguments:
        hubs: `{group: (B, n_g, D)}`, groups of `tokens`.
        tokens: `{group: (B, N_j, D)}`.
        mask: `(B, N_j)` bool of the tokens of the group `"sequence"`, True = valid; None = all valid.
        return_attention: As in `INFNetBlock`; the rows of `"task/j"` are the task tokens, then their proxies.

    Raises:
        ValueError: On an argument out of range, or hubs of a group that has no tokens.

    Source: INFNet (arXiv:2508.11565, version 1, heterogeneous and homogeneous interaction).
    Deviations: gates come from the new proxies, as the text says; the equations take the old ones, which in a last block would leave the
    cross-attention of the proxies without effect.
    """

    def __init__(self, num_heads=1, *, residual=True, **kwargs):
        super().__init__(num_heads, **kwargs)
        self.residual = residual

    def _aggregation(self, **kwargs):
        return HubAggregation(self.num_heads, fusion="sum", residual=self.residual, **kwargs)

    def _unit(self, **kwargs):
        return ProxyGatedUnit(**kwargs)

    def _aggregate(self, hubs, tokens, mask):
        queries = self._with_task_tokens(hubs, tokens)
        queries, _, attention = super()._aggregate(queries, tokens, mask)
        if TASK not in hubs or not self.use_broadcast:
            return queries, tokens, attention
        count = tokens[TASK].shape[1]
        read = {TASK: queries[TASK][:, :count]}  # T^
        hubs = queries if self.per_token else {**queries, TASK: queries[TASK][:, count:]}
        return hubs, {**tokens, **read}, attention

    def _with_task_tokens(self, hubs, tokens):
        """Returns the hubs with the task tokens in front of their proxies: one attention for both."""
        if TASK not in hubs or not self.use_broadcast or self.per_token:
            return hubs
        return {**hubs, TASK: ops.concatenate([tokens[TASK], hubs[TASK]], axis=1)}

    def _attention_spec(self, hubs, tokens):
        return super()._attention_spec(self._with_task_tokens(hubs, tokens), tokens)

    def get_config(self):
        return {**super().get_config(), "residual": self.residual}
