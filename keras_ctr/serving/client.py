"""Clients of a served model: rows in, probabilities out, over TensorFlow Serving's REST and gRPC interfaces.

    client = RestClient("http://localhost:8501", "ctr", schema)
    client.predict([{"user_id": 17, "video_id": 4}, {"user_id": 17, "video_id": 9}])["click"]        # (2,)
    client.rank({"user_id": 17}, [{"video_id": 4}, {"video_id": 9}])["click"]                        # (2,)

The REST client needs the standard library and NumPy, the gRPC client also tensorflow-serving-api (the extra `serving`).
"""

import json
import re
import urllib.error
import urllib.request
from urllib.parse import quote

import numpy as np

from keras_ctr.schema import nearest
from keras_ctr.serving.payloads import predict_columns, rank_columns, rest_predict, rest_rank

__all__ = ["GrpcClient", "RestClient", "ServingError", "explain", "grpc_request"]

_DTYPES = {"string": "DT_STRING", "int64": "DT_INT64", "float32": "DT_FLOAT"}


class ServingError(RuntimeError):
    """A server's refusal, or its silence, in words that say what to do.

    Attributes:
        feature: Name of the feature that it is about, or None.
        server_message: What the server said, or None if it said nothing.
    """

    def __init__(self, message, *, feature=None, server_message=None):
        super().__init__(message)
        self.feature, self.server_message = feature, server_message


def explain(message, schema, columns=None):
    """Returns the `ServingError` for an error message of TensorFlow Serving.

    Args:
        message: The message, of either interface.
        schema: The client's schema.
        columns: `{feature: list}` of the request, by which a message without a name finds its feature.
    """
    other = "the server has a model of another schema than the client: give the client the schema of the served version"
    names = schema.feature_names

    def error(text, feature=None):
        return ServingError(f"{text} (server: {message})", feature=feature, server_message=message)

    if found := re.search(r"element: (\d+) key: (\S+) of 'instances' list\. Error: (.*)", message, re.DOTALL):
        row, name, reason = found.groups()
        if "does not have named input" in reason:
            return error(f"the served model has no feature '{name}': {other}", name)
        return error(f"row {row}: the server refused feature '{name}'{_wanted(reason)}", name)
    if found := re.search(r"Missing named input: (\S+) in 'inputs'", message):
        return error(f"the served model has a feature '{found[1]}' that the request lacks: {other}", found[1])
    if found := re.search(r"keys must be equal to: (\S*)", message):
        return _differing(error, set(found[1].split(",")), set(names), other)
    if found := re.search(r"Sent extra: \{(.*?)\}\. Missing but required: \{(.*?)\}", message):
        extra, missing = (set(filter(None, part.split(","))) for part in found.groups())
        return _differing(error, missing | (set(names) - extra), set(names), other)
    if found := re.search(r"input tensor alias not found in signature: ([^\s.]+)", message):
        return error(f"the served model has no feature '{found[1]}': {other}", found[1])
    if "Servable not found" in message or re.search(r"Could not find any versions|not found in path", message):
        return error("the server has no such model or version: check the model's name, and that a version folder is loaded")
    if re.search(r"signature (?:name|key)?.*not found|Failed to get input map for signature", message, re.IGNORECASE):
        return error("the served model lacks this signature: export it again, or name one that it has")
    if found := re.search(r"JSON Value: (.*?) Type: (\w+) is not of expected type: (\w+)", message):
        holders = [name for name, values in (columns or {}).items() if _holds(values, found[1])]
        if len(holders) == 1:
            return error(f"the server refused feature '{holders[0]}'{_wanted(message)}", holders[0])
    mentioned = [name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", message)]
    if mentioned:
        listed = ", ".join(f"'{name}'" for name in mentioned)
        return error(f"the server refused the request over feature{'s' * (len(mentioned) > 1)} {listed}", mentioned[0])
    return error("the server refused the request")


def _wanted(reason):
    found = re.search(r"Type: (\w+) is not of expected type: (\w+)", reason)
    return f": it wants {found[2]}, got a JSON {found[1]}" if found else ""


def _holds(values, text):
    if isinstance(values, list):
        return any(_holds(v, text) for v in values)
    return json.dumps(values.decode(errors="replace") if isinstance(values, bytes) else values) == text


def _differing(error, served, sent, other):
    missing, extra = sorted(served - sent), sorted(sent - served)
    parts = [f"lacks the feature '{name}'{nearest(name, extra)}" for name in missing]
    parts += [f"has the feature '{name}', which the served model has not" for name in extra]
    return error(
        f"the request {' and '.join(parts) or 'has other features than the served model'}: {other}", (missing + extra or [None])[0]
    )


class _Client:
    """What both clients share: `predict` and `rank` over `_send(columns request)`."""

    def __init__(self, model, schema, *, version=None, candidate_features=None, timeout=10.0):
        self.model, self.schema, self.version = model, schema, version
        self.candidate_features, self.timeout = candidate_features, timeout

    def _scores(self, outputs, rows):
        found = {}
        for label in self.schema.label_names:
            if label not in outputs:
                raise ServingError(
                    f"the answer has no label '{label}'{nearest(label, outputs)} but {', '.join(outputs)}: the server's model has others"
                )
            values = np.asarray(outputs[label], np.float32)
            if values.size != rows:
                raise ServingError(f"label '{label}': the answer has {values.size} values for {rows} rows")
            found[label] = values.reshape(rows)
        return found


class RestClient(_Client):
    """TensorFlow Serving's REST interface, by the standard library.

    Args:
        url: `http://host:8501`.
        model: Name of the model on the server.
        schema: `Schema` of the served model.
        version: Version number, or None for the newest.
        candidate_features: What the export was given for its `rank` signature; None for the default.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url, model, schema, **options):
        super().__init__(model, schema, **options)
        part = "" if self.version is None else f"/versions/{int(self.version)}"
        self.url = f"{url.rstrip('/')}/v1/models/{quote(model, safe='')}{part}"

    def predict(self, rows, *, signature="serving_default"):
        """Returns `{label: (B,) float32}` of rows (`payloads.predict_columns`).

        Raises:
            ValueError, TypeError: If a row does not fit the schema; nothing is sent then.
            ServingError: If the server cannot be reached or refuses.
        """
        body = rest_predict(self.schema, rows, signature=signature)
        answer = self._post(body, None)
        predictions = answer.get("predictions")
        if not isinstance(predictions, list):
            raise ServingError(f"{self.url}: the answer has no list of 'predictions': {str(answer)[:200]}")
        if predictions and isinstance(predictions[0], dict):
            outputs = {name: [row[name] for row in predictions] for name in predictions[0]}
        else:
            outputs = {self.schema.label_names[0]: predictions}  # of a single output the server drops the name
        return self._scores(outputs, len(body["instances"]))

    def rank(self, user, candidates, *, signature="rank"):
        """Returns `{label: (N,) float32}` of N candidates for one user (`payloads.rank_columns`).

        Raises:
            KeyError, ValueError, TypeError: If something does not fit the schema; nothing is sent then.
            ServingError: If the server cannot be reached or refuses.
        """
        candidates = list(candidates)
        options = {"candidate_features": self.candidate_features}
        body = rest_rank(self.schema, user, candidates, signature=signature, **options)
        outputs = self._post(body, rank_columns(self.schema, user, candidates, **options)).get("outputs")
        if outputs is None:
            raise ServingError(f"{self.url}: the answer has no 'outputs'")
        return self._scores(outputs if isinstance(outputs, dict) else {self.schema.label_names[0]: outputs}, len(candidates))

    def _post(self, body, columns):
        request = urllib.request.Request(
            f"{self.url}:predict", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as failure:
            text = failure.read().decode(errors="replace")
            try:
                message = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError):
                raise ServingError(f"{self.url} answered {failure.code} {failure.reason}: {text[:200]}", server_message=text) from failure
            raise explain(message, self.schema, columns) from failure
        except (OSError, ValueError) as failure:  # URLError and time-outs are OSErrors
            raise ServingError(f"{self.url}: no answer that is JSON within {self.timeout:g} s: {failure}") from failure


class GrpcClient(_Client):
    """TensorFlow Serving's gRPC interface.

    Args:
        target: `host:8500`, or a `grpc.Channel` (with credentials, say), which stays the caller's to close.
        model, schema, version, candidate_features, timeout: As for `RestClient`.

    Raises:
        ImportError: If tensorflow-serving-api is not installed.
    """

    def __init__(self, target, model, schema, **options):
        super().__init__(model, schema, **options)
        import grpc

        _, service = _serving_api()
        self._own = isinstance(target, str)
        self.channel = grpc.insecure_channel(target) if self._own else target
        self._stub = service.PredictionServiceStub(self.channel)

    def predict(self, rows, *, signature="serving_default"):
        """As `RestClient.predict`."""
        rows = list(rows)
        return self._call(predict_columns(self.schema, rows), signature, len(rows))

    def rank(self, user, candidates, *, signature="rank"):
        """As `RestClient.rank`."""
        candidates = list(candidates)
        columns = rank_columns(self.schema, user, candidates, candidate_features=self.candidate_features)
        return self._call(columns, signature, len(candidates))

    def _call(self, columns, signature, rows):
        import grpc

        request = grpc_request(self.schema, columns, self.model, version=self.version, signature=signature)
        try:
            answer = self._stub.Predict(request, timeout=self.timeout)
        except grpc.RpcError as failure:
            if failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                text = f"the server did not answer within {self.timeout:g} s ({failure.code().name}): {failure.details()}"
                raise ServingError(text, server_message=failure.details()) from failure
            raise explain(failure.details() or failure.code().name, self.schema, columns) from failure
        return self._scores({name: _floats(tensor) for name, tensor in answer.outputs.items()}, rows)

    def close(self):
        """Closes the channel, if the client opened it."""
        if self._own:
            self.channel.close()


def grpc_request(schema, columns, model, *, version=None, signature="serving_default"):
    """Returns the `PredictRequest` of columns (`payloads.predict_columns` or `rank_columns`).

    Raises:
        ImportError: If tensorflow-serving-api is not installed.
    """
    predict_pb2, _ = _serving_api()
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = int(version)
    for name, values in columns.items():
        dtype, tensor = schema.raw_dtype(name), request.inputs[name]
        tensor.dtype = type(tensor).DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name[_DTYPES[dtype]].number
        shape, flat = [len(values)], values
        if schema.encoded_shape(name):
            shape, flat = [len(values), len(values[0])], [value for row in values for value in row]
        for size in shape:
            tensor.tensor_shape.dim.add().size = size
        if dtype == "string":
            tensor.string_val.extend(value.encode() if isinstance(value, str) else value for value in flat)
        else:
            tensor.tensor_content = np.asarray(flat, np.dtype(dtype).newbyteorder("<")).tobytes()
    return request


def _floats(tensor):
    """The values of a float TensorProto, which has them as bytes, as a list, or as one value that repeats."""
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4")
    size = int(np.prod([dim.size for dim in tensor.tensor_shape.dim]))
    values = list(tensor.float_val)
    return np.array(values + values[-1:] * (size - len(values)), np.float32)


def _serving_api():
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        advice = "gRPC needs tensorflow-serving-api: pip install 'keras_ctr[serving]'; RestClient needs nothing"
        raise ImportError(f"{advice} ({error})") from error
    return predict_pb2, prediction_service_pb2_grpc
