"""The logits of ESMM: what follows a click, over all impressions."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int


@keras.saving.register_keras_serializable(package="keras_ctr")
class EntireSpaceLogits(keras.Layer):
    """Logits over all impressions of what follows a click: vector `(B, L) -> (B, L)`, in float32 under every dtype policy.

    With a the logit of the click and b that of a conversion given the click, `pCTCVR = sigmoid(a) sigmoid(b)` has the logit

        z = log(p / (1 - p)) = -log(exp(-a) + exp(-b) + exp(-a - b))

    since `1 / p = (1 + exp(-a)) (1 + exp(-b))`. As a log-sum-exp it neither overflows nor cancels, so the logit is exact to float32
    rounding where the product of the probabilities is 0 or 1. Other logits, the click's among them, stay as they are. No parameters.

    Args:
        click: Position of the click's logit.
        conversions: Positions of the logits of conversions given the click; may be empty.

    Raises:
        ValueError: If a position is not an int of at least 0, is given twice, is the click's, or if there are too few logits.

    Source: ESMM (Ma et al., SIGIR 2018, arXiv:1804.07931, Eq. 1: pCTCVR = pCTR pCVR); the logit is ours.
    """

    def __init__(self, click=0, conversions=(), **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.click = click
        self.conversions = tuple(conversions)
        for argument, value in (("click", click), *(("conversions", c) for c in self.conversions)):
            check_int(self, argument, value, least=0)
        if len({click, *self.conversions}) <= len(self.conversions):
            raise ValueError(f"EntireSpaceLogits '{self.name}': a conversion is given twice or is the click: {click}, {self.conversions}")

    def build(self, inputs_shape):
        last = max(self.click, *self.conversions, 0)
        if last >= inputs_shape[-1]:
            raise ValueError(f"EntireSpaceLogits '{self.name}': there is no logit {last} among {inputs_shape[-1]}")
        self.built = True

    def call(self, inputs):
        if not self.conversions:
            return inputs
        columns = ops.split(inputs, inputs.shape[-1], axis=-1)  # (B, 1) each
        a = columns[self.click]
        for index in self.conversions:
            b = columns[index]
            columns[index] = -ops.logsumexp(ops.concatenate([-a, -b, -a - b], axis=-1), axis=-1, keepdims=True)
        return ops.concatenate(columns, axis=-1)  # (B, L)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "click": self.click, "conversions": list(self.conversions)}
