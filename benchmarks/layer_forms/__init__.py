"""Alternative formulations of the layers' mathematics for `benchmarks.layers`, how they are compared and timed, and whole-model steps."""
