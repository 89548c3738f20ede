"""Clients against servers on the loopback that score a real SavedModel by TensorFlow and speak as TensorFlow Serving does."""

import base64
import http.server
import json
import math
import shutil
import subprocess
import threading
import time
from concurrent import futures

import numpy as np
import pyarrow as pa
import pytest

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.data import fit_schema
from keras_ctr.serving import GrpcClient, RestClient, SavedModelRunner, ServingError, client, export_model, payloads

pytestmark = pytest.mark.slow

SCHEMA = Schema(
    features=[
        Categorical("user", dtype="int64"),
        Categorical("item", dtype="int64"),
        Categorical("city"),
        Numeric("price", transform="none"),
        Sequence("items", 5, table="item", target="item", group="clicks"),
        Sequence("cities", 5, table="city", target="city", group="clicks"),
    ],
    labels=["click"],
    group="user",
)
USER = {"user": 3, "items": [1, 9], "cities": ["Köln", b"\xff\xfe"]}
CANDIDATES = [
    {"item": 1, "city": "Köln", "price": 3},
    {"item": np.int32(2), "city": b"\xff\xfe", "price": 0.25},
    {"item": 77, "city": None},  # unknown item, missing city and price
]
ROWS = [{**USER, **candidate} for candidate in CANDIDATES] + [{"user": 1}, {"user": 2, "items": [4, 5, 6, 7, 8, 9, 1], "cities": None}]


@pytest.fixture(scope="module", params=[("click",), ("click", "like")], ids=["one label", "two labels"])
def served(request, tmp_path_factory):
    """`(schema, model, path)` of an exported model with random weights."""
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "user": rng.integers(0, 5, 50),
            "item": rng.integers(0, 10, 50),
            "city": pa.array(rng.choice(["Köln", "東京", "x"], 50)),
            "price": pa.array(rng.normal(size=50).astype("float32")),
            "items": pa.array([rng.integers(0, 10, 3).tolist() for _ in range(50)], pa.list_(pa.int64())),
            "cities": pa.array([["x", "Köln", "x"] for _ in range(50)]),
            **{label: pa.array(rng.integers(0, 2, 50)) for label in request.param},
        }
    )
    schema, vocabularies = fit_schema([table], SCHEMA.replace(labels=request.param), min_count=1)
    model = keras_ctr.models.DIN(schema, hidden_units=(7,))
    for v in model.trainable_variables:
        v.assign(np.asarray(v) + rng.normal(size=v.shape).astype("float32") * 0.3)
    path = export_model(model, schema, vocabularies, tmp_path_factory.mktemp("served") / "ctr" / "1")
    with SavedModelRunner(path) as runner:
        yield schema, runner


def direct(schema, runner, rows):
    """The scores of rows by the SavedModel itself, from arrays that no client code has made."""
    columns = {}
    for name, missing in (("user", -1), ("item", -1), ("price", math.nan), ("city", "")):
        columns[name] = [missing if row.get(name) is None else row[name] for row in rows]
    for name, missing in (("items", -1), ("cities", "")):
        columns[name] = [[*(row.get(name) or []), *[missing] * 9][:9] for row in rows]
    return {k: v[:, 0] for k, v in runner.run("serving_default", columns).items()}


class Refused(Exception):
    pass


def from_json(value, spec, level=0):
    """Values as TensorFlow Serving reads them: strict about types, base64 objects for strings only."""
    if isinstance(value, list):
        return [from_json(v, spec, level + 1) for v in value]
    if isinstance(value, dict):
        if spec.dtype != "string" or list(value) != ["b64"]:
            raise Refused(f"JSON Value: {json.dumps(value)} Type: Object is not of expected type: {spec.dtype}")
        return base64.b64decode(value["b64"], validate=True)
    kinds = {"int64": int, "float32": (int, float), "string": str}
    if isinstance(value, bool) or not isinstance(value, kinds[spec.dtype]):
        kind = {"int": "Number", "float": "Number", "str": "String", "bool": "Bool", "NoneType": "Null"}[type(value).__name__]
        raise Refused(f"JSON Value: {json.dumps(value)} Type: {kind} is not of expected type: {spec.dtype}")
    return value


def answer(runner, body):
    signature = body["signature_name"]
    if "instances" in body:
        inputs = runner.signatures[signature].inputs
        columns = {name: [] for name in inputs}
        for i, row in enumerate(body["instances"]):
            for name, value in row.items():
                at = f"Failed to process element: {i} key: {name} of 'instances' list. Error: INVALID_ARGUMENT: "
                if name not in inputs:
                    raise Refused(f"{at}JSON object: does not have named input: {name}")
                try:
                    columns[name].append(from_json(value, inputs[name]))
                except Refused as error:
                    raise Refused(f"{at}{error}") from error
            if set(row) != set(inputs):
                keys = ",".join(inputs)
                raise Refused(f"Failed to process element: {i} of 'instances' list. JSON object: {{}} keys must be equal to: {keys}")
        found = {name: v.tolist() for name, v in runner.run(signature, columns).items()}
        if len(found) == 1:
            return {"predictions": next(iter(found.values()))}
        return {"predictions": [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]}
    columns = body["inputs"]
    inputs, rank = runner.signatures["serving_default"].inputs, signature == "rank"
    for name in inputs:
        if name not in columns:
            raise Refused(f"Missing named input: {name} in 'inputs' object.")
    columns = {name: from_json(value, inputs[name]) for name, value in columns.items()}
    found = {k: v.tolist() for k, v in (ranked(runner, columns) if rank else runner.run(signature, columns)).items()}
    return {"outputs": next(iter(found.values())) if len(found) == 1 else found}


def ranked(runner, columns):
    """The `rank` signature of the SavedModel, or of an export without one the user's row repeated."""
    if "rank" in runner.signatures:
        return runner.run("rank", columns)
    count = len(columns["item"])
    return runner.run("serving_default", {k: list(v) * count if len(v) == 1 else v for k, v in columns.items()})


@pytest.fixture()
def rest(served):
    schema, runner = served

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, content = 200, None
            try:
                if self.path not in ("/v1/models/ctr:predict", "/v1/models/ctr/versions/1:predict"):
                    code, content = 404, {"error": f"Servable not found for request: Latest({self.path.split('/')[3]})"}
                else:
                    content = answer(runner, body)
            except Refused as error:
                code, content = 400, {"error": str(error)}
            payload = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture()
def grpc_target(served):
    pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="tensorflow-serving-api is not installed (extra `serving`)")
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    schema, runner = served

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            inputs = runner.signatures["serving_default"].inputs
            extra, missing = set(request.inputs) - set(inputs), set(inputs) - set(request.inputs)
            if request.model_spec.name != "ctr":
                context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({request.model_spec.name})")
            if extra or missing:
                sizes = f"{len(request.inputs)}!={len(inputs)}"
                sets = f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"input size does not match signature: {sizes} len({{}}). {sets}")
            columns = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            found = ranked(runner, columns) if request.model_spec.signature_name == "rank" else runner.run("serving_default", columns)
            response = predict_pb2.PredictResponse()
            for name, value in found.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def check_scores(made, schema, runner):
    found, expected = made.predict(ROWS), direct(schema, runner, ROWS)
    assert found.keys() == set(schema.label_names)
    ranked_now = made.rank(USER, CANDIDATES)
    for label in schema.label_names:
        np.testing.assert_allclose(found[label], expected[label], atol=1e-6)
        np.testing.assert_allclose(ranked_now[label], expected[label][: len(CANDIDATES)], atol=1e-6)
        assert np.ptp(expected[label]) > 1e-4


def test_rest_scores_are_the_models(served, rest):
    schema, runner = served
    check_scores(RestClient(rest, "ctr", schema), schema, runner)
    check_scores(RestClient(rest + "/", "ctr", schema, version=1), schema, runner)


def test_grpc_scores_are_the_models(served, grpc_target):
    schema, runner = served
    made = GrpcClient(grpc_target, "ctr", schema)
    check_scores(made, schema, runner)
    with pytest.raises(ServingError, match="no such model or version"):
        GrpcClient(grpc_target, "other", schema).predict(ROWS)
    with pytest.raises(ServingError, match="lacks the feature 'city'") as caught:
        GrpcClient(grpc_target, "ctr", schema.select(features=[n for n in schema.feature_names if n != "city"])).predict([{"item": 1}])
    assert caught.value.feature == "city"
    made.close()
    with pytest.raises(ServingError, match="did not answer"):
        GrpcClient("127.0.0.1:1", "ctr", schema, timeout=1.0).predict(ROWS)


def test_rest_errors_name_the_feature(served, rest):
    schema, _ = served
    with pytest.raises(ServingError, match="no such model or version") as caught:
        RestClient(rest, "other", schema).predict(ROWS)
    assert caught.value.server_message == "Servable not found for request: Latest(other:predict)"
    less = schema.select(features=[n for n in schema.feature_names if n != "city"])
    with pytest.raises(ServingError, match="lacks the feature 'city'"):
        RestClient(rest, "ctr", less).predict([{"item": 1}])
    with pytest.raises(ServingError, match="has a feature 'city' that the request lacks"):
        RestClient(rest, "ctr", less).rank({}, [{"item": 1}])
    more = schema.replace(features=[*schema.features, Numeric("cost", transform="none")])
    with pytest.raises(ServingError, match="the served model has no feature 'cost'"):
        RestClient(rest, "ctr", more).predict([{"item": 1}])
    text = schema.replace(features=[Categorical("user", 7) if f.name == "user" else f for f in schema.features])
    with pytest.raises(ServingError, match="row 0: the server refused feature 'user': it wants int64, got a JSON String"):
        RestClient(rest, "ctr", text).predict([{"user": "u7"}])
    with pytest.raises(ServingError, match="the server refused feature 'user': it wants int64, got a JSON String"):
        RestClient(rest, "ctr", text).rank({"user": "u7"}, [{"item": 1}])
    with pytest.raises(ServingError, match="no answer that is JSON within 1 s"):
        RestClient("http://127.0.0.1:1", "ctr", schema, timeout=1.0).predict(ROWS)


def test_payloads_are_what_the_signature_expects():
    row = {"user": np.int64(1), "cities": ["a", b"\x00"], "items": [1, None], "price": np.float32(0.5)}
    body = payloads.rest_predict(SCHEMA, [row, {}])
    first, second = body["instances"]
    assert first == {
        "user": 1,
        "item": -1,
        "city": "",
        "price": 0.5,
        "items": [1, -1],
        "cities": ["a", {"b64": base64.b64encode(b"\x00").decode()}],
    }
    assert second["items"] == [-1, -1] and second["cities"] == ["", ""] and math.isnan(second["price"])
    assert "NaN" in json.dumps(body)  # TensorFlow Serving reads it
    body = payloads.rest_rank(SCHEMA, {"user": 1, "price": 2}, [{"item": 1}, {"item": 2, "price": 3.5}])
    assert body["signature_name"] == "rank" and body["inputs"]["user"] == [1] and body["inputs"]["items"] == [[-1]]
    assert body["inputs"]["item"] == [1, 2] and body["inputs"]["price"] == [2.0, 3.5]
    body = payloads.rest_rank(SCHEMA, {}, [{"item": 1}, {"item": 2}], candidate_features=["item"])
    assert body["inputs"]["city"] == [""] and body["inputs"]["item"] == [1, 2]


@pytest.mark.parametrize(
    "row, kind, message",
    [
        ({"user": 5994.0}, TypeError, "row 0: feature 'user' takes int64, got float 5994.0, which a server refuses even where it is whole"),
        ({"user": True}, TypeError, "feature 'user' takes int64, got bool True; write it as 0 or 1"),
        ({"user": "7"}, TypeError, "feature 'user' takes int64, got str '7'"),
        ({"user": 2**63}, ValueError, "feature 'user' takes int64, and 9223372036854775808 does not fit"),
        ({"city": 7}, TypeError, "feature 'city' takes str or bytes, got int 7"),
        ({"price": "7"}, TypeError, "feature 'price' takes a number, got str '7'"),
        ({"price": 1e39}, ValueError, "feature 'price' takes float32"),
        ({"items": 7}, TypeError, "feature 'items' is a sequence: give a list of int64, got int"),
        ({"cities": "Köln"}, TypeError, "feature 'cities' is a sequence"),
        ({"items": [1.5]}, TypeError, "feature 'items' takes int64, got float"),
        ({"items": [1], "cities": []}, ValueError, "'items' has 1, 'cities' has 0 values"),
        ({"usr": 1}, ValueError, "row 0: 'usr' is no feature of the model; did you mean 'user'"),
    ],
)
def test_bad_rows_are_not_sent(row, kind, message):
    with pytest.raises(kind) as caught:
        payloads.predict_columns(SCHEMA, [row])
    assert message in str(caught.value)


def test_bad_ranking_requests_are_not_sent():
    with pytest.raises(ValueError, match="candidate 1: feature 'user' is the user's"):
        payloads.rank_columns(SCHEMA, {}, [{"item": 1}, {"user": 1}])
    with pytest.raises(ValueError, match="at least one candidate"):
        payloads.rank_columns(SCHEMA, {}, [])
    with pytest.raises(ValueError, match="at least one row"):
        payloads.predict_columns(SCHEMA, [])
    with pytest.raises(KeyError, match="did you mean 'item'"):
        payloads.rank_columns(SCHEMA, {}, [{}], candidate_features=["itm"])
    payloads.predict_columns(SCHEMA, [{"click": 1}])  # a label may ride along


@pytest.mark.parametrize(
    "message, feature",
    [
        ("Expecting tensor size: 3 but got: 2 for items", "items"),
        ("input tensor alias not found in signature: city. Inputs expected to be in the set {user,item}.", "city"),
        ("assertion failed: [feature 'user' has this many rows:] [1]", "user"),
        ("something else", None),
    ],
)
def test_other_messages(message, feature):
    error = client.explain(message, SCHEMA)
    assert error.feature == feature and message in str(error)
    assert feature is None or f"'{feature}'" in str(error)


def test_tensorflow_serving_itself(served, tmp_path):
    """The image of TensorFlow Serving, where Docker can run it."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, timeout=60).returncode:
        pytest.skip("no Docker daemon: TensorFlow Serving's image cannot be run here")
    if subprocess.run([docker, "image", "inspect", "tensorflow/serving"], capture_output=True, timeout=60).returncode:
        pytest.skip("the image tensorflow/serving is not there: docker pull tensorflow/serving")
    schema, runner = served
    shutil.copytree(runner.path, tmp_path / "ctr" / "1")
    command = [docker, "run", "-d", "--rm", "-p", "127.0.0.1::8501", "-v", f"{tmp_path / 'ctr'}:/models/ctr:ro", "-e", "MODEL_NAME=ctr"]
    container = subprocess.run([*command, "tensorflow/serving"], capture_output=True, text=True, check=True).stdout.strip()
    try:
        port = subprocess.run([docker, "port", container, "8501"], capture_output=True, text=True, check=True).stdout.split(":")[-1].strip()
        made = RestClient(f"http://127.0.0.1:{port}", "ctr", schema)
        for _ in range(60):
            try:
                found = made.predict(ROWS)
                break
            except ServingError:
                time.sleep(1)
        else:
            pytest.fail("TensorFlow Serving did not answer within a minute")
        for label, expected in direct(schema, runner, ROWS).items():
            np.testing.assert_allclose(found[label], expected, atol=1e-5)
    finally:
        subprocess.run([docker, "rm", "-f", container], capture_output=True)
