"""Model factories: one function an architecture, `factory(schema, *, ...) -> keras.Model`."""

from keras_ctr.models.ad_rec import AD_REC_MODELS, AdRec
from keras_ctr.models.ad_rec_sequential import AD_REC_SEQUENTIAL_MODELS, AdRecSequential
from keras_ctr.models.apg import APG
from keras_ctr.models.attention_weights import attention_weights
from keras_ctr.models.auto_int import AutoInt
from keras_ctr.models.bst import BST
from keras_ctr.models.can import CAN
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.dcn import DCN
from keras_ctr.models.dcn_v2 import DCNv2
from keras_ctr.models.deep_crossing import DeepCrossing
from keras_ctr.models.deep_fm import DeepFM
from keras_ctr.models.dhen import DHEN
from keras_ctr.models.dien import DIEN
from keras_ctr.models.din import DIN
from keras_ctr.models.dlrm import DLRM
from keras_ctr.models.dmin import DMIN
from keras_ctr.models.dmr import DMR
from keras_ctr.models.dnn import DNN
from keras_ctr.models.dot import DOT
from keras_ctr.models.dyn_int import DynInt
from keras_ctr.models.esmm import ESMM, conversion_rates
from keras_ctr.models.eta import ETA
from keras_ctr.models.fi_bi_net import FiBiNET
from keras_ctr.models.fm import FM
from keras_ctr.models.fm_fm import FmFM
from keras_ctr.models.gate_net import GateNet
from keras_ctr.models.gdcn import GDCN
from keras_ctr.models.hstu import HSTU
from keras_ctr.models.infnet import INFNet
from keras_ctr.models.interformer import InterFormer
from keras_ctr.models.label_outputs import with_offsets, with_uncertainty_weights
from keras_ctr.models.lhuc import LHUC
from keras_ctr.models.lr import LR
from keras_ctr.models.mask_net import MaskNet
from keras_ctr.models.mmoe import MMoE
from keras_ctr.models.omoe import OMoE
from keras_ctr.models.one_trans import OneTrans
from keras_ctr.models.ple import PLE
from keras_ctr.models.pnn import PNN
from keras_ctr.models.poso import POSO
from keras_ctr.models.pp_net import PPNet
from keras_ctr.models.rank_mixer import RankMixer
from keras_ctr.models.shared_bottom import SharedBottom
from keras_ctr.models.sim import SIM
from keras_ctr.models.stem import STEM
from keras_ctr.models.task_heads import with_task_heads
from keras_ctr.models.tbsm import TBSM
from keras_ctr.models.trans_act import TransAct
from keras_ctr.models.wide_deep import WideDeep
from keras_ctr.models.wukong import Wukong
from keras_ctr.models.x_deep_fm import XDeepFM
from keras_ctr.models.x_deep_int import XDeepInt

__all__ = [
    "AD_REC_MODELS",
    "AD_REC_SEQUENTIAL_MODELS",
    "APG",
    "BST",
    "CAN",
    "DCN",
    "DHEN",
    "DIEN",
    "DIN",
    "DLRM",
    "DMIN",
    "DMR",
    "DNN",
    "DOT",
    "ESMM",
    "ETA",
    "FM",
    "GDCN",
    "HSTU",
    "LHUC",
    "LR",
    "PLE",
    "PNN",
    "POSO",
    "SIM",
    "STEM",
    "TBSM",
    "AdRec",
    "AdRecSequential",
    "AutoInt",
    "CTRModel",
    "DCNv2",
    "DeepCrossing",
    "DeepFM",
    "DynInt",
    "FiBiNET",
    "FmFM",
    "GateNet",
    "INFNet",
    "InterFormer",
    "MMoE",
    "MaskNet",
    "OMoE",
    "OneTrans",
    "PPNet",
    "RankMixer",
    "SharedBottom",
    "TransAct",
    "WideDeep",
    "Wukong",
    "XDeepFM",
    "XDeepInt",
    "attention_weights",
    "build_inputs",
    "conversion_rates",
    "predictions",
    "with_offsets",
    "with_task_heads",
    "with_uncertainty_weights",
]
