"""Search spaces of the models and of their training, and the sweeps of the papers. Nothing here needs KerasTuner to be imported."""
