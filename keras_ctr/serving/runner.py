"""Score a SavedModel through TensorFlow's C API, without importing tensorflow, keras or keras_ctr.

TensorFlow Serving loads a SavedModel with TensorFlow's C++ loader. `tf.saved_model.load` in Python is a different road, on which a
model can work that no server can run. This file takes the server's road: with ctypes it opens the shared library of the installed
TensorFlow wheel, calls `TF_LoadSessionFromSavedModel`, and feeds and fetches the tensors that a signature names. It needs only NumPy
beside it, so it can be run, or copied, without the package around it; data goes in and comes out as columns:

    python runner.py SAVED_MODEL_DIR --signature serving_default --input rows.json --output scores.json

    with SavedModelRunner("model") as runner:
        scores = runner.run("serving_default", {"user_id": ["u1", "u2"], "price": [1.5, 2.0]})

Where a GPU is visible TensorFlow places the session on it, as a server would; `CUDA_VISIBLE_DEVICES=-1` keeps it on the CPU.
"""

import argparse
import base64
import contextlib
import ctypes
import difflib
import functools
import importlib.util
import itertools
import json
import os
import sys
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np

TYPE_NAMES = {1: "float32", 2: "float64", 3: "int32", 7: "string", 9: "int64", 10: "bool"}  # by TF_DataType
TYPE_CODES = {name: code for code, name in TYPE_NAMES.items()}
ACCEPTED = {"float": {"float", "integer"}, "int": {"integer"}, "bool": {"bool"}, "string": {"string"}}  # JSON does not tell 1 from 1.0
STRING_BYTES = 24  # sizeof(TF_TString)
STATUS_NAMES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED "
    "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split()


class TensorSpec(NamedTuple):
    """One input or output of a signature: its name, dtype name, shape (None = any; a shape of None = any rank) and graph tensor."""

    name: str
    dtype: str
    shape: tuple | None
    tensor: str


class Signature(NamedTuple):
    """The inputs and outputs of one signature, each a dict from name to `TensorSpec`, sorted by name."""

    inputs: dict
    outputs: dict


def _varint(value):
    """Return a non-negative integer as protobuf writes it: base 128, lowest seven bits first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _read_varint(message, position):
    """Return the integer that starts at `position`, and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("a number runs past its end")


def _fields(message):
    """Yield (field number, int or slice) of a protobuf message; the generated classes would import the tensorflow package."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        value, position = _read_varint(message, position)
        if key & 7 == 2:  # length-delimited; the messages read here hold nothing else but varints
            start, position = position, position + value
            value = message[start:position]
        if key & 7 not in (0, 2) or position > len(message):
            raise ValueError(f"field {key >> 3} is of an unexpected type or runs past its end")
        yield key >> 3, value


def _parse_specs(signature, number):
    """Return the `TensorSpec`s of one of a SignatureDef's two maps (1 = inputs, 2 = outputs)."""
    specs = {}
    for entry in (dict(_fields(value)) for field, value in _fields(signature) if field == number):
        name, info = str(entry[1], "utf-8"), dict(_fields(entry[2]))
        dims = list(_fields(info.get(3, b"\x18\x01")))  # without a shape: as if unknown_rank (field 3) were set
        sizes = (dict(_fields(dim)).get(1, 0) for field, dim in dims if field == 2)
        shape = None if (3, 1) in dims else tuple(None if size >> 63 else size for size in sizes)  # -1 comes as its two's complement
        specs[name] = TensorSpec(name, TYPE_NAMES.get(info.get(2), f"type {info.get(2)}"), shape, str(info.get(1, b""), "utf-8"))
    return dict(sorted(specs.items()))


def read_signatures(path):
    """Return {name: `Signature`} from a SavedModel's `saved_model.pb`, less the loader's own init operation; needs no library.

    Raises:
        FileNotFoundError: there is no `saved_model.pb` in `path`; names a version folder below it if one is there.
        ValueError: the file is damaged, or holds no graph with the tag "serve".
    """
    file = Path(path) / "saved_model.pb"
    if not file.is_file():
        versions = sorted(p.parent for p in Path(path).glob("[0-9]*/saved_model.pb"))
        raise FileNotFoundError(f"{file} does not exist; " + (f"did you mean {versions[-1]}?" if versions else "is it a SavedModel?"))
    try:
        for graph in (value for number, value in _fields(memoryview(file.read_bytes())) if number == 2):
            fields = list(_fields(graph))
            if [bytes(tag) for number, info in fields if number == 1 for field, tag in _fields(info) if field == 4] == [b"serve"]:
                pairs = (dict(_fields(value)) for number, value in fields if number == 5)
                parsed = {str(p[1], "utf-8"): Signature(_parse_specs(p[2], 1), _parse_specs(p[2], 2)) for p in pairs}
                return {name: parsed[name] for name in sorted(parsed) if not name.startswith("__saved_model_")}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged or not a SavedModel: {error}") from error
    raise ValueError(f"{file} has no graph tagged 'serve', which exporters write and servers load")


class _Output(ctypes.Structure):
    """TF_Output: output `index` of operation `oper`."""

    _fields_ = [("oper", ctypes.c_void_p), ("index", ctypes.c_int)]


_P, _I, _N, _S, _O = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p, ctypes.POINTER(_Output)
_PROTOTYPES = {  # function: (result, arguments)
    "TF_NewStatus": (_P, []), "TF_DeleteStatus": (None, [_P]), "TF_GetCode": (_I, [_P]), "TF_Message": (_S, [_P]),
    "TF_NewBufferFromString": (_P, [_S, _N]), "TF_DeleteBuffer": (None, [_P]),
    "TF_NewSessionOptions": (_P, []), "TF_DeleteSessionOptions": (None, [_P]), "TF_SetConfig": (None, [_P, _S, _N, _P]),
    "TF_NewGraph": (_P, []), "TF_DeleteGraph": (None, [_P]), "TF_GraphOperationByName": (_P, [_P, _S]),
    "TF_LoadSessionFromSavedModel": (_P, [_P, _P, _S, ctypes.POINTER(_S), _I, _P, _P, _P]),
    "TF_CloseSession": (None, [_P, _P]), "TF_DeleteSession": (None, [_P, _P]),
    "TF_SessionRun": (None, [_P, _P, _O, _P, _I, _O, _P, _I, _P, _I, _P, _P]),
    "TF_AllocateTensor": (_P, [_I, _P, _I, _N]), "TF_DeleteTensor": (None, [_P]), "TF_TensorFromProto": (None, [_P, _P, _P]),
    "TF_TensorData": (_P, [_P]), "TF_TensorType": (_I, [_P]), "TF_NumDims": (_I, [_P]), "TF_Dim": (ctypes.c_int64, [_P, _I]),
    "TF_StringGetDataPointer": (_P, [_P]), "TF_StringGetSize": (_N, [_P]),
}  # fmt: skip


@functools.cache
def _load_library():
    """Open the shared library of the installed TensorFlow package, which is found without importing it, and declare the functions."""
    spec = importlib.util.find_spec("tensorflow")
    folder = Path(spec.submodule_search_locations[0]) if spec else None
    path = next(folder.glob("libtensorflow_cc.*"), None) if folder else None  # .so.2, or .2.dylib
    if path is None:
        raise ImportError(f"no libtensorflow_cc in {folder}" if folder else "TensorFlow is not installed: `pip install tensorflow`")
    library = ctypes.CDLL(os.fspath(path))
    for name, (result, arguments) in _PROTOTYPES.items():
        getattr(library, name).restype, getattr(library, name).argtypes = result, arguments
    return library


@contextlib.contextmanager
def _status(library):
    """Give a TF_Status, and raise what it holds as RuntimeError when the block ends."""
    status = library.TF_NewStatus()
    try:
        yield status
        if code := library.TF_GetCode(status):
            raise RuntimeError(f"TensorFlow: {STATUS_NAMES[code]}: {library.TF_Message(status).decode(errors='replace')}")
    finally:
        library.TF_DeleteStatus(status)


@functools.cache
def _kind(value_type):
    """Return the word that `ACCEPTED` uses for a Python or NumPy scalar type; bool before int, which it is a subclass of."""
    kinds = (("bool", (bool, np.bool_)), ("integer", (int, np.integer)), ("float", (float, np.floating)), ("string", (str, bytes)))
    return next((word for word, types in kinds if issubclass(value_type, types)), value_type.__name__)


def _flatten(name, value):
    """Return nested lists as one flat list and their shape."""
    shape, level = [], [value]
    while level and set(map(type, level)) <= {list, tuple}:
        sizes = set(map(len, level))
        if len(sizes) > 1:
            raise ValueError(f"input {name!r} is ragged: lists of {min(sizes)} and of {max(sizes)} values; pad them to one length")
        shape += sizes
        level = list(itertools.chain.from_iterable(level))
    return level, tuple(shape)


def _prepare(spec, value):
    """Check one input and return (array of its dtype, or flat list of bytes for strings; shape); see `SavedModelRunner.run`."""
    name, wanted = spec.name, spec.shape
    if isinstance(value, (list, tuple, str, bytes)):
        flat, shape = _flatten(name, value)
        if shape == (0,) and wanted and not wanted[0]:  # an empty list is zero rows of any shape
            shape = (0, *(size or 0 for size in wanted[1:]))
    else:
        value = np.asarray(value)
        flat, shape = value.ravel().tolist() if value.dtype.kind in "OSUT" else value, value.shape
    kinds = {_kind(flat.dtype.type)} if isinstance(flat, np.ndarray) else set(map(_kind, set(map(type, flat))))
    if wrong := kinds - ACCEPTED[spec.dtype.rstrip("3264")]:
        raise TypeError(f"input {name!r} has dtype {spec.dtype}; got values of type {', '.join(sorted(wrong))}")
    if wanted is not None and (len(shape) != len(wanted) or any(w not in (None, s) for w, s in zip(wanted, shape, strict=True))):
        raise ValueError(f"input {name!r} has rank {len(wanted)}, shape {wanted}; got rank {len(shape)}, shape {shape}")
    try:
        if spec.dtype == "string":
            return [v.encode() if isinstance(v, str) else v for v in flat], shape
        dtype = np.dtype(spec.dtype)
        if 0 in shape:
            return np.empty(shape, dtype), shape
        if dtype.kind == "i" and getattr(flat, "dtype", None) != dtype:
            low, high = (flat.min(), flat.max()) if isinstance(flat, np.ndarray) else (min(flat), max(flat))
            if int(low) < np.iinfo(dtype).min or int(high) > np.iinfo(dtype).max:
                raise OverflowError(f"values from {low} to {high}")
        with np.errstate(over="raise"):
            return np.asarray(flat, dtype=dtype).reshape(shape), shape
    except (OverflowError, FloatingPointError, UnicodeEncodeError) as error:
        raise ValueError(f"input {name!r} holds a value that does not fit {spec.dtype}: {error}") from error


_SHORT = [b"\x42" + bytes([size]) for size in range(128)]  # tag and length of a TensorProto.string_val below 128 bytes


def _string_tensor(library, name, values, shape):
    """Return a new TF_Tensor of strings. They go in as one serialised TensorProto, and TensorFlow owns and frees its copy."""
    dims = b"".join(b"\x12" + _varint(len(size)) + size for size in (b"\x08" + _varint(d) for d in shape))
    tagged = ((_SHORT[len(v)] if len(v) < 128 else b"\x42" + _varint(len(v)), v) for v in values)
    message = b"".join((b"\x08\x07\x12", _varint(len(dims)), dims, *itertools.chain.from_iterable(tagged)))
    if len(message) >= 1 << 31:  # the limit of a protobuf message
        raise ValueError(f"input {name!r} holds more than 2 GiB of strings: score it in smaller batches")
    buffer = library.TF_NewBufferFromString(message, len(message))
    tensor = library.TF_AllocateTensor(TYPE_CODES["float32"], None, 0, 4)  # a scalar, replaced below
    with _status(library) as status:
        library.TF_TensorFromProto(buffer, tensor, status)
    library.TF_DeleteBuffer(buffer)
    return tensor


def _number_tensor(library, dtype, array):
    """Return a new TF_Tensor with a copy of `array`."""
    tensor = library.TF_AllocateTensor(TYPE_CODES[dtype], (ctypes.c_int64 * array.ndim)(*array.shape), array.ndim, array.nbytes)
    if array.nbytes:
        ctypes.memmove(library.TF_TensorData(tensor), array.tobytes(), array.nbytes)  # for small arrays quicker than asking for a pointer
    return tensor


def _to_numpy(library, tensor):
    """Return a copy of a TF_Tensor: an array of its dtype, or of dtype object with `bytes` for strings."""
    shape = tuple(library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor)))
    dtype, data = TYPE_NAMES[library.TF_TensorType(tensor)], library.TF_TensorData(tensor)
    array = np.empty(shape, dtype=object if dtype == "string" else dtype)
    if dtype == "string" and array.size:
        places = range(data, data + STRING_BYTES * array.size, STRING_BYTES)
        pointers, sizes = map(library.TF_StringGetDataPointer, places), map(library.TF_StringGetSize, places)
        array.reshape(-1)[:] = list(map(ctypes.string_at, pointers, sizes))
    elif array.nbytes:
        ctypes.memmove(array.__array_interface__["data"][0], data, array.nbytes)
    return array


def _nearest(name, names):
    """Return ` (did you mean 'x'?)` for the nearest of `names`, or nothing when none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _free_session(library, session, graph):
    """Close and delete a session and its graph; also runs at interpreter exit for a runner that nobody closed."""
    status = library.TF_NewStatus()
    library.TF_CloseSession(session, status)
    library.TF_DeleteSession(session, status)
    library.TF_DeleteGraph(graph)
    library.TF_DeleteStatus(status)


def _thread_config(**threads):
    """Return the serialised ConfigProto (fields 2 and 5) for the thread counts that are not None."""
    keys = {"intra_op_threads": b"\x10", "inter_op_threads": b"\x28"}
    for word, count in threads.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"{word} must be a positive integer or None, got {count!r}")
    return b"".join(keys[word] + _varint(count) for word, count in threads.items() if count is not None)


class SavedModelRunner(contextlib.AbstractContextManager):
    """A SavedModel loaded by TensorFlow's C loader; `signatures` holds what `read_signatures` returns.

    Args:
        path: the SavedModel directory.
        intra_op_threads, inter_op_threads: threads inside one operation and across operations; None leaves them to TensorFlow, which
            makes its pools once a process: the first session in the process decides for all later ones.

    Raises:
        FileNotFoundError, ValueError: as `read_signatures`; ValueError also for a bad thread count.
        ImportError: TensorFlow is not installed, or its package has no shared library with the C API.
        RuntimeError: TensorFlow could not load the model; holds its status and message.
    """

    def __init__(self, path, *, intra_op_threads=None, inter_op_threads=None):
        self.path, self.signatures, self._plans = os.fspath(path), read_signatures(path), {}
        config = _thread_config(intra_op_threads=intra_op_threads, inter_op_threads=inter_op_threads)
        self._library = lib = _load_library()
        self._graph, options = lib.TF_NewGraph(), lib.TF_NewSessionOptions()
        try:
            with _status(lib) as status:
                if config:
                    lib.TF_SetConfig(options, config, len(config), status)
                folder, tags = os.fsencode(path), (_S * 1)(b"serve")
                self._session = lib.TF_LoadSessionFromSavedModel(options, None, folder, tags, 1, self._graph, None, status)
        except RuntimeError:
            lib.TF_DeleteGraph(self._graph)
            raise
        finally:
            lib.TF_DeleteSessionOptions(options)
        self._free = weakref.finalize(self, _free_session, lib, self._session, self._graph)

    def run(self, signature, inputs):
        """Run one signature, from any thread; returns {output name: NumPy array}, strings as `bytes` in an array of dtype object.

        Args:
            signature: a key of `signatures`.
            inputs: dict from input name to a NumPy array, a (nested) list, or a scalar where the signature has rank 0. Integers are
                taken for floats, integers of another width if every value fits, and floats are rounded to the signature's precision.
                Strings are str (sent as UTF-8) or bytes (sent as they are); NumPy `S` and `U` arrays lose trailing NULs before they
                come here, lists and object arrays do not. An empty list is zero rows.

        Raises:
            ValueError: unknown signature; missing or unknown input, named with the nearest match; wrong shape; unfit value.
            TypeError: values of another kind than the signature's dtype.
            RuntimeError: TensorFlow's own error, with its status and message; or the runner is closed.
        """
        if not self._free.alive:
            raise RuntimeError(f"the runner of {self.path} is closed")
        if signature not in self._plans:
            self._plans[signature] = self._plan(signature)
        (wanted, outputs), feeds, fetches = self._plans[signature]
        if inputs.keys() != wanted.keys():
            missing, extra = [n for n in wanted if n not in inputs], [str(n) for n in inputs if n not in wanted]
            parts = [f"missing input {n!r}{_nearest(n, extra)}" for n in missing]
            parts += [f"unknown input {n!r}{_nearest(n, missing or wanted)}" for n in extra]
            raise ValueError(f"signature {signature!r}: {'; '.join(parts)}; its inputs are {list(wanted)}")
        prepared = [(s, *_prepare(s, inputs[name])) for name, s in wanted.items()]
        lib, fed, fetched = self._library, (_P * len(feeds))(), (_P * len(fetches))()
        try:
            for i, (s, value, shape) in enumerate(prepared):
                fed[i] = _string_tensor(lib, s.name, value, shape) if s.dtype == "string" else _number_tensor(lib, s.dtype, value)
            with _status(lib) as status:
                lib.TF_SessionRun(self._session, None, feeds, fed, len(feeds), fetches, fetched, len(fetches), None, 0, None, status)
            return {name: _to_numpy(lib, tensor) for name, tensor in zip(outputs, fetched, strict=True)}
        finally:
            for tensor in filter(None, (*fed, *fetched)):
                lib.TF_DeleteTensor(tensor)

    def _plan(self, name):
        """Return (signature, feed TF_Outputs, fetch TF_Outputs) of one signature."""
        if name not in self.signatures:
            raise ValueError(f"{self.path} has no signature {name!r}{_nearest(name, self.signatures)}; it has {list(self.signatures)}")
        sides = []
        for word, specs in self.signatures[name]._asdict().items():
            sides.append((_Output * len(specs))())
            for output, spec in zip(sides[-1], specs.values(), strict=True):
                operation, _, index = spec.tensor.rpartition(":")
                output.oper = self._library.TF_GraphOperationByName(self._graph, operation.encode())
                if spec.dtype not in TYPE_CODES or not output.oper:
                    raise TypeError(f"signature {name!r}, {word}: {spec.name!r} is not one dense tensor of {list(TYPE_CODES)}: {spec}")
                output.index = int(index)
        return self.signatures[name], *sides

    def close(self):
        """Free the session, its variables and its graph. Closing twice is harmless, closing during a `run` is not."""
        self._free()

    def __exit__(self, *exc_info):
        self.close()


def _json_object(value):
    """Turn `{"b64": "..."}` into bytes, as TensorFlow Serving's REST interface does; other objects stay as they are."""
    return base64.b64decode(value["b64"], validate=True) if len(value) == 1 and isinstance(value.get("b64"), str) else value


def _read_columns(file):
    """Read `{"feature": [...], ...}` from a JSON file and check that every column has the same number of rows."""
    try:
        columns = json.loads(Path(file).read_bytes(), object_hook=_json_object)
    except ValueError as error:
        raise ValueError(f"{file} is not valid input: {error}") from error
    if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
        raise ValueError(f'{file} must hold one object of columns, {{"feature": [value of row 1, value of row 2, ...], ...}}')
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{file} has columns of different lengths: {rows}")
    return columns


def _json_bytes(value):
    """Return a string of an output as str, or as `{"b64": "..."}` where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


@contextlib.contextmanager
def _native_stderr_dropped():
    """Drop what TensorFlow's library writes to standard error; no environment variable silences all of it."""
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def main(argv=None):
    """Run the command line; returns the exit code: 0, or 2 after one line on standard error."""
    parser = argparse.ArgumentParser("runner", description="Score a SavedModel through TensorFlow's C API, without its Python.")
    parser.error = lambda message: parser.exit(2, f"runner: error: {message}\n")  # one line, without the usage
    parser.add_argument("saved_model_dir", metavar="SAVED_MODEL_DIR")
    parser.add_argument("--signature", default="serving_default", help="signature to run (default: %(default)s)")
    parser.add_argument("--input", metavar="JSON", required=True, help='file of columns, {"feature": [..], ..}; bytes as {"b64": ".."}')
    parser.add_argument("--output", metavar="JSON", help="file for the output columns (default: standard output)")
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's own log on standard error")
    args = parser.parse_args(argv)
    try:
        columns = _read_columns(args.input)
        log = contextlib.nullcontext() if args.verbose else _native_stderr_dropped()
        with log, SavedModelRunner(args.saved_model_dir) as runner:
            outputs = runner.run(args.signature, columns)
        text = json.dumps({name: array.tolist() for name, array in outputs.items()}, default=_json_bytes)
        if args.output is None:
            print(text)
        else:  # whole or not at all
            Path(f"{args.output}.partial").write_text(text + "\n", encoding="utf-8")
            os.replace(f"{args.output}.partial", args.output)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        print(f"runner: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
