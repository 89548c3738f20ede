"""Keras layers, one paper's mathematics a file; the blocks that architectures share beside them."""

from keras_ctr.layers.adaptive_dense import AdaptiveDense
from keras_ctr.layers.attention import MultiHeadAttention, RotaryEmbedding
from keras_ctr.layers.behavior_transformer import BehaviorTransformer, TransformerBlock
from keras_ctr.layers.bilinear import BilinearInteraction
from keras_ctr.layers.broadcast_gated_unit import BroadcastGatedUnit, ProxyGatedUnit
from keras_ctr.layers.calibration import PiecewiseLinear, PlattScaling
from keras_ctr.layers.co_action import CoAction, OwnEmbedding
from keras_ctr.layers.compressed_interaction import CompressedInteraction
from keras_ctr.layers.cross import CrossNetwork
from keras_ctr.layers.cross_arch import CrossArch
from keras_ctr.layers.dhen import CrossModule, DHENLayer, DotModule
from keras_ctr.layers.dhen_modules import ConvolutionModule, LinearModule, SelfAttentionModule
from keras_ctr.layers.dice import Dice
from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.dynamic_interaction import DynamicActivationGate, DynamicGeneratedInteraction, DynamicWeightedInteraction
from keras_ctr.layers.early_aggregation import EarlyAggregation
from keras_ctr.layers.embedding import FeatureEmbedding
from keras_ctr.layers.entire_space import EntireSpaceLogits
from keras_ctr.layers.experts import ExpertGate, MultiGateMixtureOfExperts
from keras_ctr.layers.factorization_machine import FactorizationMachine
from keras_ctr.layers.field_matrixed_interaction import FieldMatrixedInteraction
from keras_ctr.layers.gate_net import FeatureGate, HiddenGate
from keras_ctr.layers.gate_network import GateNetwork
from keras_ctr.layers.gate_nu import GateNU
from keras_ctr.layers.gated_cross import GatedCrossNetwork
from keras_ctr.layers.gating import LinearCompressedEmbedding, SelfGating
from keras_ctr.layers.gradient_surgery import GradientSurgery
from keras_ctr.layers.hashed_crosses import HashedCrosses
from keras_ctr.layers.history_sum import HistorySum
from keras_ctr.layers.hstu import HSTUEncoder, HSTULayer
from keras_ctr.layers.hub_aggregation import HubAggregation
from keras_ctr.layers.hub_tokens import BehaviorTokens, HubTokens
from keras_ctr.layers.infnet import INFNetBlock, INFNetV1Block
from keras_ctr.layers.interacting_attention import InteractingLayer
from keras_ctr.layers.interaction_arch import InteractionArch
from keras_ctr.layers.interest_evolution import AUGRU, InterestEvolution, InterestExtractor, NextEventLoss
from keras_ctr.layers.lhuc import HiddenUnitGate
from keras_ctr.layers.linear import LinearLogit
from keras_ctr.layers.mask_block import FieldLayerNormalization, InstanceGuidedMask, MaskBlock
from keras_ctr.layers.masked_attention import FieldPositionEmbedding, MaskedFeatureAttention, MaskedTransformerBlock
from keras_ctr.layers.matching import Item2ItemNetwork, OutputEmbedding, SelectAttributes, User2ItemNetwork
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.multi_interest import BehaviorRefiner, MultiInterestExtractor
from keras_ctr.layers.numeric import NumericTokens
from keras_ctr.layers.one_trans import EventTokens, OneTransBlock
from keras_ctr.layers.personalized_ffn import PersonalizedFFN
from keras_ctr.layers.polynomial import FeatureMapLogits, PolynomialInteraction, SubspaceCrossing
from keras_ctr.layers.pooling import SequencePooling
from keras_ctr.layers.pooling_attention import PoolingByMultiheadAttention
from keras_ctr.layers.positional_attention import EventScore, PositionQuery
from keras_ctr.layers.poso import POSOMLP, PersonalizedGate
from keras_ctr.layers.predictions import LabelPrediction
from keras_ctr.layers.product import InnerProduct, KernelProduct, OuterProduct
from keras_ctr.layers.progressive_extraction import CustomizedGateControl, ProgressiveLayeredExtraction
from keras_ctr.layers.rank_mixer import PerTokenFFN, RankMixerBlock, SemanticTokens, TokenMixing
from keras_ctr.layers.recent import RecentTokens
from keras_ctr.layers.residual_unit import ResidualUnit
from keras_ctr.layers.select_tokens import SelectTokens
from keras_ctr.layers.sequence_arch import SequenceArch
from keras_ctr.layers.sequence_mask import SequenceMaskNet
from keras_ctr.layers.sequence_merge import MergeSequences
from keras_ctr.layers.sequence_search import HardSearch, LSHSearch, RecentSearch, SoftSearch
from keras_ctr.layers.squeeze_excitation import SqueezeExcitation
from keras_ctr.layers.stem import STEMLayer
from keras_ctr.layers.target_attention import TargetAttention
from keras_ctr.layers.task_towers import TaskTowers
from keras_ctr.layers.time_series import EventTower, SequenceContext, TimeSeriesLayer
from keras_ctr.layers.trans_act import TransActEncoder
from keras_ctr.layers.wukong import FactorizationMachineBlock, LinearCompressionBlock, WukongLayer

__all__ = [
    "AUGRU",
    "AdaptiveDense",
    "BehaviorRefiner",
    "BehaviorTokens",
    "BehaviorTransformer",
    "BilinearInteraction",
    "BroadcastGatedUnit",
    "CoAction",
    "CompressedInteraction",
    "ConvolutionModule",
    "CrossArch",
    "CrossModule",
    "CrossNetwork",
    "CustomizedGateControl",
    "DHENLayer",
    "Dice",
    "DotInteraction",
    "DotModule",
    "DynamicActivationGate",
    "DynamicGeneratedInteraction",
    "DynamicWeightedInteraction",
    "EarlyAggregation",
    "EntireSpaceLogits",
    "EventScore",
    "EventTokens",
    "EventTower",
    "ExpertGate",
    "FactorizationMachine",
    "FactorizationMachineBlock",
    "FeatureEmbedding",
    "FeatureGate",
    "FeatureMapLogits",
    "FieldLayerNormalization",
    "FieldMatrixedInteraction",
    "FieldPositionEmbedding",
    "GateNU",
    "GateNetwork",
    "GatedCrossNetwork",
    "GradientSurgery",
    "HSTUEncoder",
    "HSTULayer",
    "HardSearch",
    "HashedCrosses",
    "HiddenGate",
    "HiddenUnitGate",
    "HistorySum",
    "HubAggregation",
    "HubTokens",
    "INFNetBlock",
    "INFNetV1Block",
    "InnerProduct",
    "InstanceGuidedMask",
    "InteractingLayer",
    "InteractionArch",
    "InterestEvolution",
    "InterestExtractor",
    "Item2ItemNetwork",
    "KernelProduct",
    "LSHSearch",
    "LabelPrediction",
    "LinearCompressedEmbedding",
    "LinearCompressionBlock",
    "LinearLogit",
    "LinearModule",
    "MLP",
    "MaskBlock",
    "MaskedFeatureAttention",
    "MaskedTransformerBlock",
    "MergeSequences",
    "MultiGateMixtureOfExperts",
    "MultiHeadAttention",
    "MultiInterestExtractor",
    "NextEventLoss",
    "NumericTokens",
    "OneTransBlock",
    "OuterProduct",
    "OutputEmbedding",
    "OwnEmbedding",
    "POSOMLP",
    "PerTokenFFN",
    "PersonalizedFFN",
    "PersonalizedGate",
    "PiecewiseLinear",
    "PlattScaling",
    "PolynomialInteraction",
    "PoolingByMultiheadAttention",
    "PositionQuery",
    "ProgressiveLayeredExtraction",
    "ProxyGatedUnit",
    "RankMixerBlock",
    "RecentSearch",
    "RecentTokens",
    "ResidualUnit",
    "RotaryEmbedding",
    "STEMLayer",
    "SelectAttributes",
    "SelectTokens",
    "SelfAttentionModule",
    "SelfGating",
    "SemanticTokens",
    "SequenceArch",
    "SequenceContext",
    "SequenceMaskNet",
    "SequencePooling",
    "SoftSearch",
    "SqueezeExcitation",
    "SubspaceCrossing",
    "TargetAttention",
    "TaskTowers",
    "TimeSeriesLayer",
    "TokenMixing",
    "TransActEncoder",
    "TransformerBlock",
    "User2ItemNetwork",
    "WukongLayer",
]
