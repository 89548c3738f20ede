"""Public data sets, one file each: where the raw files come from, their columns, the split rule, the schema.

Modules are imported when first used: `kuairand` needs pyarrow, `kuairand_tfds` tensorflow-datasets (both in the extra `data`).
"""

import importlib

_MODULES = ("kuairand", "kuairand_tfds")

__all__ = list(_MODULES)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"keras_ctr.datasets.{name}")
    raise AttributeError(f"module 'keras_ctr.datasets' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
