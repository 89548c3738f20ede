"""The command line: `keras-ctr prepare | train | evaluate | predict | export | list`."""

from keras_ctr.cli.main import main

__all__ = ["main"]
