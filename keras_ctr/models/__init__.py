"""Model factories: one function an architecture, `factory(schema, *, ...) -> keras.Model`."""

from keras_ctr.models.auto_int import AutoInt
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.dcn_v2 import DCNv2
from keras_ctr.models.deep_fm import DeepFM
from keras_ctr.models.din import DIN
from keras_ctr.models.dnn import DNN
from keras_ctr.models.dyn_int import DynInt
from keras_ctr.models.fm import FM
from keras_ctr.models.interformer import InterFormer
from keras_ctr.models.lr import LR
from keras_ctr.models.wukong import Wukong
from keras_ctr.models.x_deep_fm import XDeepFM
from keras_ctr.models.x_deep_int import XDeepInt

__all__ = [
    "DIN",
    "DNN",
    "FM",
    "LR",
    "AutoInt",
    "CTRModel",
    "DCNv2",
    "DeepFM",
    "DynInt",
    "InterFormer",
    "Wukong",
    "XDeepFM",
    "XDeepInt",
    "build_inputs",
    "predictions",
]
