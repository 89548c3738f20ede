"""Task towers: one small network a task, on a shared vector or on a vector of its own."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class TaskTowers(keras.Layer):
    """One tower a task: vector `(B, N) -> (B, L)` or map `(B, L, N) -> (B, L)`, L logits in float32 under every dtype policy.

    `z_i = w_i . MLP_i(x_i) + b_i` for task i, with `x_i = x` for an input `(B, N)` and row i of an input `(B, L, N)`. Towers share no
    weight. Parameters: `L` times those of an MLP N -> `hidden_units` -> 1.

    Args:
        num_tasks: L.
        hidden_units: Widths of a tower's hidden layers; empty for a linear tower.
        activation: Name of a Keras activation, or a layer prototype that is cloned for every hidden layer.
        dropout: Share of hidden units dropped in training, in [0, 1).
        batch_norm: Whether to normalise before each hidden activation.

    Raises:
        ValueError: On an argument out of range, or an input `(B, K, N)` with K other than `num_tasks`.

    Source: the towers of Ma et al., KDD 2018 (MMoE), section 3.1.
    """

    def __init__(self, num_tasks, hidden_units=(128, 64), *, activation="relu", dropout=0.0, batch_norm=False, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_tasks", num_tasks)
        self.num_tasks = num_tasks
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        # An MLP keeps a prototype by its configuration, so one that is never built can say what the towers are.
        mlp = MLP(self.hidden_units, activation=activation, dropout=dropout, batch_norm=batch_norm).get_config()
        self._mlp = {key: mlp[key] for key in ("hidden_units", "activation", "dropout", "batch_norm")}

    def build(self, input_shape):
        shape = tuple(input_shape)
        if len(shape) == 3 and shape[1] != self.num_tasks:
            raise ValueError(
                f"TaskTowers '{self.name}': the input {shape} has {shape[1]} vectors a row for {self.num_tasks} tasks; give one a task, "
                f"or one vector (B, N) for all"
            )
        if len(shape) not in (2, 3):
            raise ValueError(f"TaskTowers '{self.name}': the input must be (B, N) or (B, {self.num_tasks}, N), got {shape}")
        shape = (shape[0], shape[-1])
        self.towers, self.logits = [], []
        for index in range(self.num_tasks):
            tower = MLP.from_config({**self._mlp, "name": f"tower_{index}", "dtype": self.dtype_policy})
            tower.build(shape)
            logit = keras.layers.Dense(1, name=f"logit_{index}", dtype="float32")
            logit.build(tower.compute_output_shape(shape))
            self.towers.append(tower)
            self.logits.append(logit)
        self.built = True

    def call(self, inputs, training=None):
        out = []
        for index, (tower, logit) in enumerate(zip(self.towers, self.logits, strict=True)):
            x = inputs if len(inputs.shape) == 2 else inputs[:, index]  # (B, N)
            out.append(logit(tower(x, training=training)))  # (B, 1)
        return out[0] if len(out) == 1 else ops.concatenate(out, axis=-1)  # (B, L)

    def compute_output_shape(self, input_shape):
        return (tuple(input_shape)[0], self.num_tasks)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "num_tasks": self.num_tasks, **self._mlp}

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("activation"), dict):
            config = {**config, "activation": keras.saving.deserialize_keras_object(config["activation"])}
        return cls(**config)
