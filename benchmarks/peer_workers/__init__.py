"""Workers of `benchmarks.peers`: one program a package, each started with the Python of the environment that holds the package.

Nothing here but `keras_ctr_worker` imports `keras_ctr`: the other workers run where it is not installed.
"""
