"""What a SavedModel says of its signatures and Keras cannot write: method names of TensorFlow Serving, and inputs of one row."""

from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))


def regressions(labels):
    """Returns `{signature: label}` of the regression signatures: `regress`, or `regress_<label>` where there are several labels."""
    return {"regress" if len(labels) == 1 else f"regress_{label}": label for label in labels}


def finish_signatures(path, labels, single):
    """Gives `classify` its method name, adds the regressions, and says which inputs of `rank` have one row.

    A regression takes the one input `inputs` and gives the one output `outputs`; its tensors are those of `serve_examples`. Keras and
    TensorFlow write every signature as one of prediction, and a server's classification and regression calls refuse those. The one row
    is said of the signature alone: were the graph's own inputs declared so, TensorFlow would drop the check that they are.

    Args:
        path: The SavedModel's folder.
        labels: Names of the labels.
        single: Names of the inputs of `rank` that take one row.
    """
    file = Path(path) / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    signatures = message.meta_graphs[0].signature_def
    signatures["classify"].method_name = CLASSIFY
    for name, label in regressions(labels).items():
        signature = signatures[name]
        signature.method_name = REGRESS
        signature.inputs["inputs"].CopyFrom(signatures["serve_examples"].inputs["examples"])
        signature.outputs["outputs"].CopyFrom(signatures["serve_examples"].outputs[label])
    for name in single:
        signatures["rank"].inputs[name].tensor_shape.dim[0].size = 1
    file.write_bytes(message.SerializeToString(deterministic=True))
