"""The one place that imports pyarrow: on first use, with an error that says what to install.

Training from a prepared folder needs no pyarrow, so importing the rooms that mention it must not need it either.
"""

import importlib

__all__ = ["ipc", "pa", "pc", "pcsv", "pq"]


class _Lazy:
    """A module that is imported when its first attribute is read."""

    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name):
        try:
            module = importlib.import_module(self._module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != "pyarrow":
                raise
            raise ImportError("keras_ctr.data reads and encodes raw data with pyarrow: pip install keras_ctr[data]") from error
        value = getattr(module, name)
        self.__dict__[name] = value  # the next read does not come here
        return value


pa = _Lazy("pyarrow")
pc = _Lazy("pyarrow.compute")
pcsv = _Lazy("pyarrow.csv")
pq = _Lazy("pyarrow.parquet")
ipc = _Lazy("pyarrow.ipc")
