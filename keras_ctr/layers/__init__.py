"""Keras layers, one paper's mathematics a file; the blocks that architectures share beside them."""

from keras_ctr.layers.cross import CrossNetwork
from keras_ctr.layers.embedding import FeatureEmbedding
from keras_ctr.layers.linear import LinearLogit
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.numeric import NumericTokens
from keras_ctr.layers.pooling import SequencePooling
from keras_ctr.layers.predictions import LabelPrediction

__all__ = [
    "MLP",
    "CrossNetwork",
    "FeatureEmbedding",
    "LabelPrediction",
    "LinearLogit",
    "NumericTokens",
    "SequencePooling",
]
