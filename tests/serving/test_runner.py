"""The C-loader runner: what it reads, converts, refuses and frees, against TensorFlow's own Python on the same SavedModels."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, saved_model_pb2

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "keras_ctr" / "serving" / "runner.py"
COLOURS = ["red", "green", "grün", "a colour whose name is longer than any inline string"]
HISTORY, VOCABULARY = 5, 11
NO_COLOUR = {"age": [1.0, 2.0], "hist": [[1] * HISTORY] * 2}
GOOD = {**NO_COLOUR, "colour": ["red", "green"]}


def _load_by_path():
    """Import the file alone, as a serving process would that has no keras_ctr."""
    spec = importlib.util.spec_from_file_location("runner_under_test", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


runner = _load_by_path()


def _python(code, *args):
    """Run code in a fresh interpreter where `runner` is the file under test and `rss()` the resident megabytes; returns its JSON."""
    head = (
        "import importlib.util, json, os, sys\n"
        f"spec = importlib.util.spec_from_file_location('runner', {str(FILE)!r})\n"
        "runner = importlib.util.module_from_spec(spec); sys.modules['runner'] = runner; spec.loader.exec_module(runner)\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6\n"
    )
    done = subprocess.run([sys.executable, "-c", head + code, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def _command(*args):
    """Run the file as a program; returns (exit code, stdout, lines of stderr)."""
    done = subprocess.run([sys.executable, str(FILE), *map(str, args)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.splitlines()


def _rows(count):
    """Return raw columns with known and unknown colours."""
    rng = np.random.default_rng(7)
    return {
        "age": rng.normal(size=count).astype(np.float32),
        "colour": [(COLOURS + ["unknown"])[i] for i in rng.integers(0, 5, count)],
        "hist": rng.integers(0, VOCABULARY, (count, HISTORY)).astype(np.int32),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(SavedModel directory, the eager function behind its serving_default)."""
    folder = tmp_path_factory.mktemp("runner")
    (folder / "colours.txt").write_text("\n".join(COLOURS) + "\n", encoding="utf-8")
    inputs = {
        "age": keras.Input((), dtype="float32", name="age"),
        "colour": keras.Input((), dtype="int64", name="colour"),
        "hist": keras.Input((HISTORY,), dtype="int32", name="hist"),
    }
    colour = keras.layers.Embedding(len(COLOURS) + 1, 3)(inputs["colour"])  # (B, 3)
    hist = keras.ops.mean(keras.layers.Embedding(VOCABULARY, 3)(inputs["hist"]), axis=1)  # (B, 3)
    flat = keras.ops.concatenate([colour, hist, keras.ops.expand_dims(inputs["age"], -1)], -1)  # (B, 7)
    heads = {"click": keras.layers.Dense(1, activation="sigmoid")(flat), "logits": keras.layers.Dense(2)(flat)}
    model = keras.Model(inputs, heads)
    words = tf.lookup.TextFileInitializer(
        str(folder / "colours.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(words, len(COLOURS))

    def raw(inputs):
        return {**model({**inputs, "colour": table.lookup(inputs["colour"])}), "id": table.lookup(inputs["colour"])}

    def types(inputs):
        return {name: tf.logical_not(x) if x.dtype == tf.bool else x + tf.constant(1, x.dtype) for name, x in inputs.items()}

    def text(inputs):
        return {"same": tf.identity(inputs["text"]), "twice": inputs["text"] + inputs["text"], "size": tf.strings.length(inputs["text"])}

    def examples(inputs):
        return {"price": tf.io.parse_example(inputs["examples"], {"price": tf.io.FixedLenFeature((), tf.float32)})["price"]}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(table)
    columns = {"age": ((None,), tf.float32), "colour": ((None,), tf.string), "hist": ((None, HISTORY), tf.int32)}
    every = {t.name: ((None,), t) for t in (tf.float32, tf.float64, tf.int32, tf.int64, tf.bool)}
    for name, function, specs in (
        ("serving_default", raw, columns),
        ("types", types, every),
        ("text", text, {"text": (None, tf.string)}),
        ("scalar", types, {"x": ((), tf.float32)}),
        ("halves", types, {"x": ((None,), tf.float16)}),
        ("examples", examples, {"examples": ((None,), tf.string)}),
    ):
        archive.add_endpoint(name, function, [{key: tf.TensorSpec(shape, dtype, name=key) for key, (shape, dtype) in specs.items()}])
    archive.write_out(str(folder / "model"), verbose=False)
    return folder / "model", raw


@pytest.fixture(scope="module")
def loaded(saved):
    """A runner in this process; it shares the library with the imported TensorFlow."""
    with runner.SavedModelRunner(saved[0]) as result:
        yield result


def test_file_needs_only_the_standard_library_and_numpy():
    imports = [node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {a.name.split(".")[0] for n in imports if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in imports if isinstance(n, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"numpy"}


def test_is_a_module_of_the_package():
    from keras_ctr.serving.runner import SavedModelRunner

    assert SavedModelRunner.__doc__ == runner.SavedModelRunner.__doc__


def test_process_without_tensorflow_or_keras_equals_eager(saved, tmp_path):
    path, eager = saved
    rows = _rows(97)
    np.savez(tmp_path / "rows.npz", age=rows["age"], hist=rows["hist"])
    (tmp_path / "colour.json").write_text(json.dumps(rows["colour"]))
    result = _python(
        "import numpy as np\n"
        "path, folder = sys.argv[1:]\n"
        "rows = dict(np.load(folder + '/rows.npz'), colour=json.load(open(folder + '/colour.json')))\n"
        "with runner.SavedModelRunner(path) as r: out = r.run('serving_default', rows)\n"
        "out = {name: [array.dtype.name, array.tolist()] for name, array in out.items()}\n"
        "print(json.dumps([out, sorted({name.split('.')[0] for name in sys.modules})]))",
        path,
        tmp_path,
    )
    assert not {"tensorflow", "keras", "keras_ctr", "google"} & set(result[1])
    expected = eager({name: tf.constant(value) for name, value in rows.items()})
    assert set(result[0]) == set(expected)
    assert len({tuple(row) for row in expected["logits"].numpy().tolist()}) > 90  # the rows do differ
    for name, (dtype, values) in result[0].items():
        assert dtype == expected[name].dtype.name
        np.testing.assert_allclose(np.array(values, dtype), expected[name].numpy(), rtol=1e-6, atol=1e-7)


def test_signatures_equal_tensorflows_own_parser(saved):
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((saved[0] / "saved_model.pb").read_bytes())
    expected = {
        name: tuple(
            {
                key: (key, tf.as_dtype(info.dtype).name, tuple(None if d.size < 0 else d.size for d in info.tensor_shape.dim), info.name)
                for key, info in side.items()
            }
            for side in (signature.inputs, signature.outputs)
        )
        for name, signature in proto.meta_graphs[0].signature_def.items()
        if name != "__saved_model_init_op"
    }
    got = runner.read_signatures(saved[0])
    unknown = got["text"].inputs.pop("text")
    assert expected.pop("text")[1].keys() == got.pop("text").outputs.keys()
    assert (unknown.dtype, unknown.shape) == ("string", None)  # unknown rank
    assert got.pop("halves").inputs["x"].dtype == "type 19"  # DT_HALF
    del expected["halves"]
    assert {name: tuple(dict(side) for side in signature) for name, signature in got.items()} == expected


def test_every_dtype_keeps_its_values(loaded):
    columns = {
        "float32": np.array([1.5, np.inf, np.nan, -np.float32(2**20)], np.float32),
        "float64": np.array([1e300, -np.inf, np.nan, 2.0**-30]),
        "int32": np.array([-(2**31), -1, 0, 2**31 - 2], np.int32),
        "int64": np.array([-(2**63), -1, 0, 2**63 - 2]),
        "bool": np.array([True, False, False, True]),
    }
    lists, strided = {n: c.tolist() for n, c in columns.items()}, {n: np.repeat(c, 2)[::2] for n, c in columns.items()}
    for given in (columns, lists, strided):
        out = loaded.run("types", given)
        for name, column in columns.items():
            expected = ~column if name == "bool" else column + column.dtype.type(1)
            assert out[name].dtype == column.dtype
            np.testing.assert_array_equal(out[name], expected)
    out["int32"][:] = 0  # the caller's own memory


@pytest.mark.parametrize("name, given", [("int32", np.array([7], np.int64)), ("int64", np.array([7], np.uint8)), ("float32", [7])])
def test_values_that_fit_are_converted(loaded, name, given):
    columns = {"float32": [0.0], "float64": [0.0], "int32": [0], "int64": [0], "bool": [True], name: given}
    np.testing.assert_array_equal(loaded.run("types", columns)[name], np.array([8], name))


def test_strings_are_bytes_whole_and_unchanged(loaded):
    values = [b"", b"\0", b"a\0b\0", b"\xff\xfe", b"\xc3", "grün", "日本"] + [bytes([i % 256]) * i for i in (21, 22, 23, 127, 128, 70_001)]
    expected = [v.encode() if isinstance(v, str) else v for v in values]
    for given, shape in ((values, (13,)), (np.array(values, object), (13,)), ([[v] for v in values], (13, 1)), (values[5], ())):
        out = loaded.run("text", {"text": given})
        wanted = expected if shape else [expected[5]]
        assert out["same"].shape == out["twice"].shape == shape and out["same"].dtype == object
        assert out["same"].ravel().tolist() == wanted
        assert out["twice"].ravel().tolist() == [2 * v for v in wanted]
        assert out["size"].ravel().tolist() == [len(v) for v in wanted]
    assert loaded.run("text", {"text": np.array(["ab", "c"])})["same"].tolist() == [b"ab", b"c"]
    assert loaded.run("text", {"text": np.array([[b"ab", b"c"]])})["same"].tolist() == [[b"ab", b"c"]]


def test_scalar_empty_and_large_batches(loaded, saved):
    assert loaded.run("scalar", {"x": 2})["x"] == np.float32(3)
    arrays = {"age": np.zeros(0), "colour": np.zeros(0, object), "hist": np.zeros((0, HISTORY), int)}
    for empty in ({"age": [], "colour": [], "hist": []}, arrays):
        out = loaded.run("serving_default", empty)
        assert {name: array.shape for name, array in out.items()} == {"click": (0, 1), "logits": (0, 2), "id": (0,)}
    assert loaded.run("text", {"text": []})["same"].shape == (0,)
    rows = _rows(100_000)
    out = loaded.run("serving_default", rows)
    ids = {colour: i for i, colour in enumerate(COLOURS)}
    assert out["id"].tolist() == [ids.get(colour, len(COLOURS)) for colour in rows["colour"]]
    tail = {name: tf.constant(column[-31:]) for name, column in rows.items()}
    np.testing.assert_allclose(out["click"][-31:], saved[1](tail)["click"], rtol=1e-6)


@pytest.mark.parametrize(
    "signature, given, error, words",
    [
        ("serving_defalt", GOOD, ValueError, ["no signature 'serving_defalt'", "did you mean 'serving_default'?", "examples"]),
        ("serving_default", NO_COLOUR, ValueError, ["missing input 'colour'", "['age', 'colour', 'hist']"]),
        ("serving_default", dict(NO_COLOUR, color=["a", "b"]), ValueError, ["missing input 'colour' (did you mean 'color'?)"]),
        ("serving_default", dict(GOOD, hists=[1]), ValueError, ["unknown input 'hists' (did you mean 'hist'?)"]),
        ("serving_default", dict(GOOD, colour=[1, 2]), TypeError, ["'colour' has dtype string", "type integer"]),
        ("serving_default", dict(GOOD, colour=np.array([1, 2])), TypeError, ["'colour' has dtype string", "type integer"]),
        ("serving_default", dict(GOOD, colour=["a", None]), TypeError, ["'colour'", "NoneType"]),
        ("serving_default", dict(GOOD, colour=["a", "\ud800"]), ValueError, ["'colour'", "surrogates"]),
        ("serving_default", dict(GOOD, age=["1", "2"]), TypeError, ["'age' has dtype float32", "type string"]),
        ("serving_default", dict(GOOD, age=np.array(["1", "2"])), TypeError, ["'age' has dtype float32", "type string"]),
        ("serving_default", dict(GOOD, age=[True, 2.0]), TypeError, ["'age'", "bool"]),
        ("serving_default", dict(GOOD, age=[1e300, 2.0]), ValueError, ["'age'", "does not fit float32"]),
        ("serving_default", dict(GOOD, age=[10**400, 2.0]), ValueError, ["'age'", "does not fit float32"]),
        ("serving_default", dict(GOOD, age=1.0), ValueError, ["'age' has rank 1", "got rank 0"]),
        ("serving_default", dict(GOOD, hist=np.ones((2, HISTORY))), TypeError, ["'hist' has dtype int32", "type float"]),
        ("serving_default", dict(GOOD, hist=[1, 2]), ValueError, ["'hist' has rank 2", "got rank 1"]),
        ("serving_default", dict(GOOD, hist=[[1, 2]] * 2), ValueError, ["'hist'", "shape (None, 5)", "shape (2, 2)"]),
        ("serving_default", dict(GOOD, hist=[[1] * HISTORY, [1]]), ValueError, ["'hist' is ragged", "pad"]),
        ("serving_default", dict(GOOD, hist=[[2**31] * HISTORY] * 2), ValueError, ["'hist'", "2147483648", "int32"]),
        ("serving_default", dict(GOOD, hist=np.full((2, HISTORY), -(2**31) - 1)), ValueError, ["'hist'", "int32"]),
        ("halves", {"x": [1.0]}, TypeError, ["signature 'halves'", "'x'", "type 19"]),
        ("serving_default", dict(GOOD, hist=[[99] * HISTORY] * 2), RuntimeError, ["INVALID_ARGUMENT: indices", "99 is not in [0, 11)"]),
        ("examples", {"examples": [b"no example"]}, RuntimeError, ["INVALID_ARGUMENT", "Could not parse example"]),
    ],
)
def test_bad_calls_are_named_and_harmless(loaded, signature, given, error, words):
    with pytest.raises(error) as caught:
        loaded.run(signature, given)
    for word in words:
        assert word in str(caught.value)
    assert loaded.run("serving_default", GOOD)["id"].tolist() == [0, 1]


def test_close(saved):
    with runner.SavedModelRunner(saved[0]) as opened:
        opened.run("serving_default", GOOD)
    opened.close()
    with pytest.raises(RuntimeError, match="is closed"):
        opened.run("serving_default", GOOD)


def test_folders_that_are_no_saved_model(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="is it a SavedModel"):
        runner.SavedModelRunner(tmp_path)
    shutil.copytree(saved[0], tmp_path / "served" / "3")
    with pytest.raises(FileNotFoundError, match="did you mean .*served.3"):
        runner.SavedModelRunner(tmp_path / "served")
    whole = (saved[0] / "saved_model.pb").read_bytes()
    file = tmp_path / "served" / "3" / "saved_model.pb"
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"\xff" * 100, b"\x12\x05hello", b"not a model", b"\x12\x02\x08\x01"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"saved_model.pb (is damaged|has no graph)"):
            runner.SavedModelRunner(file.parent)
    file.write_bytes(whole.replace(b"\x22\x05serve", b"\x22\x05train"))
    with pytest.raises(ValueError, match="no graph tagged 'serve'"):
        runner.SavedModelRunner(file.parent)
    file.write_bytes(whole)
    (weights,) = file.parent.glob("variables/variables.data*")
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(RuntimeError, match="TensorFlow: [A-Z_]+: "):
        runner.SavedModelRunner(file.parent)
    shutil.rmtree(file.parent / "variables")  # TensorFlow takes this for a model without variables, and fails at the first use of one
    with runner.SavedModelRunner(file.parent) as opened, pytest.raises(RuntimeError, match="Could not find variable"):
        opened.run("serving_default", GOOD)


def test_saved_model_save_of_a_keras_model_works_in_python_only(tmp_path):
    """Why this runner is the serving test, and a reload in Python is not."""
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    tf.saved_model.save(model, str(tmp_path / "plain"))
    x = np.ones((2, 3), np.float32)
    reloaded = tf.saved_model.load(str(tmp_path / "plain")).signatures["serving_default"]
    (python,) = reloaded(tf.constant(x)).values()
    np.testing.assert_allclose(python, model(x), rtol=1e-6)
    with runner.SavedModelRunner(tmp_path / "plain") as loaded:
        (name,) = loaded.signatures["serving_default"].inputs
        with pytest.raises(RuntimeError, match="FAILED_PRECONDITION: Could not find variable"):
            loaded.run("serving_default", {name: x})
    model.export(str(tmp_path / "exported"), verbose=False)
    with runner.SavedModelRunner(tmp_path / "exported") as loaded:
        (name,) = loaded.signatures["serving_default"].inputs
        np.testing.assert_allclose(*loaded.run("serving_default", {name: x}).values(), model(x), rtol=1e-6)


def test_threads_may_share_a_runner(loaded):
    columns = [_rows(count) for count in (1, 13, 29, 101)]
    expected = [loaded.run("serving_default", c) for c in columns]
    failures = []

    def work(i):
        for _ in range(50):
            out = loaded.run("serving_default", columns[i])
            if not all(np.allclose(out[name], expected[i][name], rtol=1e-6) for name in out):
                failures.append(i)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not failures


def test_thread_options(saved):
    config = config_pb2.ConfigProto(intra_op_parallelism_threads=3, inter_op_parallelism_threads=300)
    assert config_pb2.ConfigProto.FromString(runner._thread_config(intra_op_threads=3, inter_op_threads=300)) == config
    assert runner._thread_config(intra_op_threads=None, inter_op_threads=None) == b""
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="inter_op_threads must be a positive integer"):
            runner.SavedModelRunner(saved[0], inter_op_threads=bad)
    code = (
        "r = runner.SavedModelRunner(sys.argv[1], intra_op_threads=int(sys.argv[2]), inter_op_threads=int(sys.argv[3]))\n"
        f"r.run('serving_default', {GOOD!r})\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    few, intra, inter = (_python(code, saved[0], *threads) for threads in ((1, 1), (7, 1), (1, 7)))
    assert intra - few >= 5 and inter - few >= 5


def test_many_runs_do_not_leak(saved):
    """40 kB of strings in, 120 kB out and some kB of numbers a run: any of it kept would show as tens of megabytes."""
    growth = _python(
        "r = runner.SavedModelRunner(sys.argv[1])\n"
        "text, np = [bytes([i]) * 2000 for i in range(20)], runner.np\n"
        "rows = {'age': np.ones(200), 'colour': ['a colour longer than an inline string'] * 200, 'hist': np.ones((200, 5), int)}\n"
        "bad = dict(rows, hist=rows['hist'] * 99)\n"
        "def some(count):\n"
        "    for _ in range(count):\n"
        "        r.run('text', {'text': text}); r.run('serving_default', rows)\n"
        "        try: r.run('serving_default', bad)\n"
        "        except RuntimeError: pass\n"
        "some(200); before = rss(); some(1000); print(json.dumps(rss() - before))",
        saved[0],
    )
    assert growth < 5, f"{growth:.1f} MB more after 3000 runs"


def test_closed_and_forgotten_runners_give_their_memory_back(tmp_path):
    """Ten loads of 8 MB of weights; kept, they would be 80 MB."""
    model = keras.Sequential([keras.Input((), dtype="int32", name="id"), keras.layers.Embedding(100_000, 10)])
    model.export(str(tmp_path / "wide"), verbose=False)
    growth = _python(
        "def some(count):\n"
        "    for i in range(count):\n"
        "        r = runner.SavedModelRunner(sys.argv[1])\n"
        "        r.run('serving_default', {name: [1] for name in r.signatures['serving_default'].inputs})\n"
        "        if i % 2: r.close()\n"
        "some(4); before = rss(); some(10); print(json.dumps(rss() - before))",
        tmp_path / "wide",
    )
    assert growth < 30, f"{growth:.1f} MB more after ten loads"


def test_command_line_scores_columns(saved, tmp_path):
    path, eager = saved
    rows = {name: np.asarray(column).tolist() for name, column in _rows(7).items()}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    code, printed, errors = _command(path, "--signature", "serving_default", "--input", tmp_path / "rows.json")
    assert (code, errors) == (0, [])
    code, nothing, _ = _command(path, "--input", tmp_path / "rows.json", "--output", tmp_path / "out.json")
    assert (code, nothing) == (0, "") and json.loads((tmp_path / "out.json").read_text()) == json.loads(printed)
    assert sorted(os.listdir(tmp_path)) == ["out.json", "rows.json"]
    expected = eager({"age": tf.constant(rows["age"]), "colour": tf.constant(rows["colour"]), "hist": tf.constant(rows["hist"])})
    for name, column in json.loads(printed).items():
        np.testing.assert_allclose(column, expected[name], rtol=1e-6, atol=1e-7)


def test_command_line_carries_strings_and_bytes(saved, tmp_path, capsys):
    (tmp_path / "text.json").write_text(json.dumps({"text": ["grün", {"b64": "//4="}, ""]}))
    assert runner.main([str(saved[0]), "--signature", "text", "--input", str(tmp_path / "text.json")]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out == {"same": ["grün", {"b64": "//4="}, ""], "twice": ["grüngrün", {"b64": "//7//g=="}, ""], "size": [5, 2, 0]}
    example = tf.train.Example(features=tf.train.Features(feature={"price": tf.train.Feature(float_list=tf.train.FloatList(value=[2.5]))}))
    encoded = json.dumps({"examples": [{"b64": tf.io.encode_base64(example.SerializeToString(), pad=True).numpy().decode()}]})
    (tmp_path / "examples.json").write_text(encoded.replace("-", "+").replace("_", "/"))
    assert runner.main([str(saved[0]), "--signature", "examples", "--input", str(tmp_path / "examples.json")]) == 0
    assert json.loads(capsys.readouterr().out) == {"price": [2.5]}


@pytest.mark.parametrize(
    "text, options, words",
    [
        ('{"age": [1.0]', [], ["rows.json is not valid input"]),
        ("[1, 2]", [], ["one object of columns"]),
        ('{"age": 1.0}', [], ["one object of columns"]),
        ('{"age": [1.0, 2.0], "colour": ["red"]}', [], ["different lengths", "'age': 2", "'colour': 1"]),
        ('{"age": [{"b64": "!"}]}', [], ["rows.json is not valid input"]),
        ('{"age": [1.0]}', [], ["missing input 'colour'", "missing input 'hist'"]),
        (json.dumps(GOOD), ["--signature", "textt"], ["no signature 'textt' (did you mean 'text'?)"]),
        (json.dumps({**GOOD, "hist": [[99] * HISTORY] * 2}), [], ["INVALID_ARGUMENT", "99 is not in"]),
        (json.dumps(GOOD), ["--signatur"], ["--signatur"]),
        (json.dumps(GOOD), ["--input", "nowhere.json"], ["nowhere.json"]),
        (json.dumps(GOOD), ["--output", "no/folder/out.json"], ["no/folder/out.json"]),
    ],
)
def test_command_line_errors_are_one_line_and_exit_2(saved, tmp_path, capfd, text, options, words):
    (tmp_path / "rows.json").write_text(text)
    (tmp_path / "out.json").write_text("kept")
    try:
        code = runner.main([str(saved[0]), "--input", str(tmp_path / "rows.json"), "--output", str(tmp_path / "out.json"), *options])
    except SystemExit as stop:  # argparse leaves this way
        code = stop.code
    captured = capfd.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("runner: error: ")
    assert all(word in captured.err for word in words), captured.err
    assert (tmp_path / "out.json").read_text() == "kept"


def test_command_line_error_in_a_fresh_process_is_one_line_despite_tensorflows_log(saved, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({**GOOD, "hist": [[99] * HISTORY] * 2}))
    code, printed, errors = _command(saved[0], "--input", tmp_path / "rows.json")
    assert (code, printed, len(errors)) == (2, "", 1) and "99 is not in [0, 11)" in errors[0]
    assert len(_command(saved[0], "--input", tmp_path / "rows.json", "--verbose")[2]) > 1
