"""The command line: `keras-ctr prepare | adapt | train | tune | evaluate | predict | export | list`."""

from keras_ctr.cli.main import main

__all__ = ["main"]
