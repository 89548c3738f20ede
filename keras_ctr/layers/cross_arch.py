"""InterFormer's Cross Arch: selects and summarises what the fields and the sequence tell each other."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int
from keras_ctr.layers.gating import LinearCompressedEmbedding, SelfGating
from keras_ctr.layers.pooling_attention import PoolingByMultiheadAttention
from keras_ctr.layers.recent import RecentTokens


@keras.saving.register_keras_serializable(package="keras_ctr")
class CrossArch(keras.Layer):
    """Summaries of fields and sequence: pool `(B, F, D), (B, S, D) -> {"fields": (B, n, D), "sequence": (B, S_sum, D)}`.

    ```
    X_sum = Gating( LCE(X) )                                (B, n, D), n = num_summary
    S_CLS = S[:, :num_cls]                                  (B, num_cls, D)
    S_PMA = PMA(Q, S)                                       (B, num_pma, D), over all valid tokens, CLS included
    S_recent = the num_recent newest events, oldest first   (B, G num_recent, D), of each of the G segments
    S_sum = Gating( [S_CLS ; S_PMA ; S_recent] )            (B, S_sum, D)
    ```

    Before the first layer the CLS tokens are put in front of the sequence; that happens here too (`cls_source`), because they are X_sum.
    Parameters: `F n + (D^2 + D)` for the fields; PMA (`num_pma D + 4 D^2 + 3 D`) `+ (D^2 + D)` for the sequence.

    Args:
        num_summary: n.
        num_cls: Number of CLS tokens in front of the sequence; may be 0.
        num_pma: Number of PMA tokens; 0 for none.
        num_recent: Newest events taken of each segment; 0 for none.
        num_heads: Heads of the PMA.
        cls_source: `"given"`: `sequence` has its CLS tokens already (every layer but the first). `"summary"`: prepend the first `num_cls`
            tokens of X_sum. `"learned"`: prepend `num_cls` learned tokens.
        summarize: Which summaries to return: `("fields", "sequence")`, one of them, or none (`cls_source` alone).
        segments: Lengths of the sequences that lie one after the other on the time axis, without the CLS tokens; None = one.
        use_gating: Whether summaries are gated; False = the identity.
        gate: `form` of `SelfGating`.
        gate_activation: `activation` of `SelfGating`.

    Call arguments:
        fields: X `(B, F, D)`, or None where no field summary is needed.
        sequence: `(B, S, D)`, or None where only fields are summarised.
        mask: `(B, S)` bool for `sequence` as given, True = valid; None = all valid.
        return_attention: Whether to return `(summaries, {"pma": A})`, A `(B, H, num_pma, S)` of the PMA, the CLS tokens first among the
            keys; `(summaries, {})` where no sequence is pooled.

    Returns:
        Dict with the summaries asked for, and, unless `cls_source="given"`, `"tokens"` `(B, num_cls + S, D)` and its `"mask"`, bool.

    Raises:
        ValueError: On an unknown choice, `num_cls > num_summary` with `cls_source="summary"`, or a sequence summary of no token at all.

    Source: InterFormer (Eq. 10 and 11, Algorithm 1 lines 2 to 5).
    Deviations: Algorithm 1 computes Eq. 10 twice for the first layer with the same input; once here.
    """

    CLS_SOURCES = ("given", "summary", "learned")
    SUMMARIES = ("fields", "sequence")

    def __init__(
        self,
        num_summary=4,
        *,
        num_cls=4,
        num_pma=2,
        num_recent=2,
        num_heads=1,
        cls_source="given",
        summarize=SUMMARIES,
        segments=None,
        use_gating=True,
        gate="gated",
        gate_activation="sigmoid",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_summary", num_summary)
        check_int(self, "num_heads", num_heads)
        for argument, value in (("num_cls", num_cls), ("num_pma", num_pma), ("num_recent", num_recent)):
            check_int(self, argument, value, 0)
        check_choice(self, "cls_source", cls_source, self.CLS_SOURCES)
        check_choice(self, "gate", gate, SelfGating.FORMS)
        self.summarize = tuple(summarize)
        for name in self.summarize:
            check_choice(self, "every entry of summarize", name, self.SUMMARIES)
        if cls_source == "summary" and num_cls > num_summary:
            raise ValueError(
                f"CrossArch '{self.name}': num_cls={num_cls} CLS tokens are taken from num_summary={num_summary} tokens; raise num_summary"
            )
        if "sequence" in self.summarize and not num_cls + num_pma + num_recent:
            raise ValueError(f"CrossArch '{self.name}': a sequence summary needs CLS, PMA or recent tokens, all three counts are 0")
        self.num_summary = num_summary
        self.num_cls = num_cls
        self.num_pma = num_pma
        self.num_recent = num_recent
        self.num_heads = num_heads
        self.cls_source = cls_source
        self.segments = None if segments is None else tuple(segments)
        self.use_gating = use_gating
        self.gate = gate
        self.gate_activation = keras.activations.get(gate_activation)
        self.supports_masking = True

    @property
    def summary_tokens(self):
        """Number of tokens of the sequence summary."""
        return self.num_cls + self.num_pma + self.num_recent * len(self.segments or (1,))

    @property
    def _needs_fields(self):
        return "fields" in self.summarize or (self.cls_source == "summary" and self.num_cls > 0)

    def build(self, fields_shape=None, sequence_shape=None):
        policy = self.dtype_policy
        batch, width = (fields_shape or sequence_shape)[0], (fields_shape or sequence_shape)[-1]
        if self._needs_fields:
            if fields_shape is None:
                raise ValueError(f"CrossArch '{self.name}': fields are needed for X_sum")
            self.compress = LinearCompressedEmbedding(self.num_summary, name="compress", dtype=policy)
            self.compress.build(fields_shape)
            if self.use_gating:
                self.field_gate = self._gate("field_gate", (batch, self.num_summary, width))
        if self.cls_source != "given" or "sequence" in self.summarize:
            if sequence_shape is None:
                raise ValueError(f"CrossArch '{self.name}': a sequence is needed for CLS tokens and S_sum")
            steps = sequence_shape[1]
            if self.cls_source != "given" and steps is not None:
                steps += self.num_cls
        if self.cls_source == "learned" and self.num_cls:
            initializer = keras.initializers.RandomNormal(stddev=0.02)
            self.cls_tokens = self.add_weight(name="cls_tokens", shape=(self.num_cls, width), initializer=initializer)
        if "sequence" in self.summarize:
            if self.num_pma:
                self.pma = PoolingByMultiheadAttention(self.num_pma, num_heads=self.num_heads, name="pma", dtype=policy)
                self.pma.build((batch, steps, width))
            if self.num_recent:
                self.recent = RecentTokens(self.num_recent, segments=self.segments, skip=self.num_cls, name="recent", dtype=policy)
                self.recent.build((batch, steps, width))
            if self.use_gating:
                self.sequence_gate = self._gate("sequence_gate", (batch, self.summary_tokens, width))
        self.built = True

    def _gate(self, name, shape):
        gate = SelfGating(form=self.gate, activation=self.gate_activation, name=name, dtype=self.dtype_policy)
        gate.build(shape)
        return gate

    def call(self, fields=None, sequence=None, *, mask=None, return_attention=False):
        out, attention = {}, {}
        if self._needs_fields:
            field_summary = self.compress(fields)  # (B, n, D)
            field_summary = self.field_gate(field_summary) if self.use_gating else field_summary
            if "fields" in self.summarize:
                out["fields"] = field_summary
        if self.cls_source != "given":
            first = None
            if self.num_cls:
                first = field_summary[:, : self.num_cls] if self.cls_source == "summary" else self._learned(sequence)
            sequence, mask = self._prepend(first, sequence, mask)
            out["tokens"], out["mask"] = sequence, mask
        if "sequence" in self.summarize:
            parts = [sequence[:, : self.num_cls]] if self.num_cls else []
            if self.num_pma:
                pooled = self.pma(sequence, mask=mask, return_attention=return_attention)  # (B, num_pma, D)
                if return_attention:
                    pooled, attention["pma"] = pooled
                parts.append(pooled)
            if self.num_recent:
                parts.append(self.recent(sequence, mask=mask))  # (B, G*num_recent, D)
            summary = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)  # (B, S_sum, D)
            out["sequence"] = self.sequence_gate(summary) if self.use_gating else summary
        return (out, attention) if return_attention else out

    def _learned(self, sequence):
        return ops.broadcast_to(self.cls_tokens, (ops.shape(sequence)[0], *self.cls_tokens.shape))  # (B, num_cls, D)

    def _prepend(self, first, sequence, mask):
        if mask is None:
            mask = ops.ones(ops.shape(sequence)[:2], dtype="bool")
        if first is None:
            return sequence, mask
        valid = ops.ones(ops.shape(first)[:2], dtype="bool")  # (B, num_cls)
        return ops.concatenate([first, sequence], axis=1), ops.concatenate([valid, mask], axis=1)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the mask is an output

    def compute_output_shape(self, fields_shape=None, sequence_shape=None):
        batch, width = (fields_shape or sequence_shape)[0], (fields_shape or sequence_shape)[-1]
        out = {"fields": (batch, self.num_summary, width)} if "fields" in self.summarize else {}
        if self.cls_source != "given":
            steps = None if sequence_shape[1] is None else self.num_cls + sequence_shape[1]
            out["tokens"], out["mask"] = (batch, steps, width), (batch, steps)
        if "sequence" in self.summarize:
            out["sequence"] = (batch, self.summary_tokens, width)
        return dict(sorted(out.items()))

    def compute_output_spec(self, fields=None, sequence=None, *, mask=None, return_attention=False):
        shapes = self.compute_output_shape(*(None if x is None else x.shape for x in (fields, sequence)))
        out = {k: keras.KerasTensor(s, dtype="bool" if k == "mask" else self.compute_dtype) for k, s in shapes.items()}
        if not return_attention:
            return out
        if "sequence" not in self.summarize or not self.num_pma:
            return out, {}
        steps = (sequence if self.cls_source == "given" else out["tokens"]).shape[1]
        return out, {"pma": keras.KerasTensor((sequence.shape[0], self.num_heads, self.num_pma, steps), dtype="float32")}

    def get_config(self):
        return {
            **super().get_config(),
            "num_summary": self.num_summary,
            "num_cls": self.num_cls,
            "num_pma": self.num_pma,
            "num_recent": self.num_recent,
            "num_heads": self.num_heads,
            "cls_source": self.cls_source,
            "summarize": list(self.summarize),
            "segments": None if self.segments is None else list(self.segments),
            "use_gating": self.use_gating,
            "gate": self.gate,
            "gate_activation": keras.activations.serialize(self.gate_activation),
        }
