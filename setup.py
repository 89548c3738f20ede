"""Packaging of keras_ctr."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "keras_ctr" / "__init__.py").read_text(), re.MULTILINE).group(1)

DATA = ["pyarrow>=17,<28"]
TUNING = ["keras-tuner>=1.4.8,<2", "tensorboard>=2.19,<3", "scikit-learn>=1.5,<2", "scipy>=1.11,<2"]
REPORT = ["matplotlib>=3.8,<4", "scikit-learn>=1.5,<2"]
# tensorflow-datasets 4.9.10 imports importlib_resources without asking for it.
TFDS = ["tensorflow-datasets>=4.9.10,<5", "importlib_resources>=6,<8"]
SERVING = ["tensorflow-serving-api>=2.19,<3"]
ONNX = ["tf2onnx>=1.17,<2", "onnx>=1.17,<2", "onnxruntime>=1.20,<2"]
RETRIEVAL = ["tensorflow-recommenders>=0.7.7,<1", "tf-keras>=2.19,<3"]
TEST = [
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "ruff>=0.9,<1",
    "scikit-learn>=1.5,<2",
    "keras-rs>=0.4,<1",
    "dill>=0.3.8,<1",
    "pandas>=2.1,<4",
    *TFDS,
    *TUNING,
    *REPORT,
    *SERVING,
    *RETRIEVAL,  # its cross and dot layers are oracles
]

setup(
    name="keras_ctr",
    version=VERSION,
    description="Click-through-rate prediction models for Keras 3: InterFormer, DynInt and what they are compared with",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["keras_ctr", "keras_ctr.*", "tuning", "tuning.*"]),
    package_data={"keras_ctr.datasets": ["kuairand_extract/*"]},
    install_requires=[
        "keras>=3.15,<4",
        "tensorflow>=2.21,<2.23",
        "numpy>=1.26,<3",
        "click>=8.1,<9",
        "rich>=13.7,<16",
    ],
    extras_require={
        "data": [*DATA, *TFDS],
        "beam": ["apache-beam>=2.60,<3", *TFDS],
        "tuning": TUNING,
        "retrieval": RETRIEVAL,
        "serving": SERVING,
        "onnx": ONNX,
        "report": REPORT,
        "demo": [*DATA, "scikit-learn>=1.5,<2"],
        "test": [*DATA, *TEST],
        "jax": ["jax>=0.5,<1"],
        "torch": ["torch>=2.6,<3"],
        "parity": ["torch-rechub>=0.9,<1", "deepctr-torch>=0.3,<1"],
    },
    entry_points={"console_scripts": ["keras-ctr=keras_ctr.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
