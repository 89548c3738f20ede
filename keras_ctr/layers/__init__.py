"""Keras layers, one paper's mathematics a file; the blocks that architectures share beside them."""

from keras_ctr.layers.attention import MultiHeadAttention, RotaryEmbedding
from keras_ctr.layers.compressed_interaction import CompressedInteraction
from keras_ctr.layers.cross import CrossNetwork
from keras_ctr.layers.cross_arch import CrossArch
from keras_ctr.layers.dhen import CrossModule, DHENLayer, DotModule
from keras_ctr.layers.dice import Dice
from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.dynamic_interaction import DynamicActivationGate, DynamicGeneratedInteraction, DynamicWeightedInteraction
from keras_ctr.layers.early_aggregation import EarlyAggregation
from keras_ctr.layers.embedding import FeatureEmbedding
from keras_ctr.layers.factorization_machine import FactorizationMachine
from keras_ctr.layers.gate_network import GateNetwork
from keras_ctr.layers.gating import LinearCompressedEmbedding, SelfGating
from keras_ctr.layers.interacting_attention import InteractingLayer
from keras_ctr.layers.interaction_arch import InteractionArch
from keras_ctr.layers.linear import LinearLogit
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.numeric import NumericTokens
from keras_ctr.layers.personalized_ffn import PersonalizedFFN
from keras_ctr.layers.polynomial import FeatureMapLogits, PolynomialInteraction, SubspaceCrossing
from keras_ctr.layers.pooling import SequencePooling
from keras_ctr.layers.pooling_attention import PoolingByMultiheadAttention
from keras_ctr.layers.predictions import LabelPrediction
from keras_ctr.layers.recent import RecentTokens
from keras_ctr.layers.sequence_arch import SequenceArch
from keras_ctr.layers.sequence_mask import SequenceMaskNet
from keras_ctr.layers.sequence_merge import MergeSequences
from keras_ctr.layers.target_attention import TargetAttention
from keras_ctr.layers.wukong import FactorizationMachineBlock, LinearCompressionBlock, WukongLayer

__all__ = [
    "CompressedInteraction",
    "CrossArch",
    "CrossModule",
    "CrossNetwork",
    "DHENLayer",
    "Dice",
    "DotInteraction",
    "DotModule",
    "DynamicActivationGate",
    "DynamicGeneratedInteraction",
    "DynamicWeightedInteraction",
    "EarlyAggregation",
    "FactorizationMachine",
    "FactorizationMachineBlock",
    "FeatureEmbedding",
    "FeatureMapLogits",
    "GateNetwork",
    "InteractingLayer",
    "InteractionArch",
    "LabelPrediction",
    "LinearCompressedEmbedding",
    "LinearCompressionBlock",
    "LinearLogit",
    "MLP",
    "MergeSequences",
    "MultiHeadAttention",
    "NumericTokens",
    "PersonalizedFFN",
    "PolynomialInteraction",
    "PoolingByMultiheadAttention",
    "RecentTokens",
    "RotaryEmbedding",
    "SelfGating",
    "SequenceArch",
    "SequenceMaskNet",
    "SequencePooling",
    "SubspaceCrossing",
    "TargetAttention",
    "WukongLayer",
]
