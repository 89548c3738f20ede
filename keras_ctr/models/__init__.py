"""Model factories: one function an architecture, `factory(schema, *, ...) -> keras.Model`."""

from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.dnn import DNN
from keras_ctr.models.lr import LR

__all__ = ["DNN", "LR", "CTRModel", "build_inputs", "predictions"]
