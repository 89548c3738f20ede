"""Whether what is served answers as the model does."""

import numpy as np


def largest_difference(found, expected, where, tolerance):
    """Returns the largest difference of two sets of outputs.

    Args:
        found: `{label: (B, 1)}` of what is served.
        expected: `{label: (B, 1)}` of the model.
        where: What was asked, for the errors.
        tolerance: Largest difference that is accepted.

    Raises:
        ValueError: If outputs are missing or too many, or one has another shape or differs by more, naming it.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"{where} has the outputs {sorted(found)}, the model gives {sorted(expected)}")
    largest = 0.0
    for label, values in expected.items():
        if found[label].shape != values.shape:
            raise ValueError(f"{where}: output '{label}' has shape {found[label].shape}, not {values.shape}")
        difference = float(np.max(np.abs(found[label] - values), initial=0.0))
        if not difference <= tolerance:
            raise ValueError(f"{where}: output '{label}' differs by {difference:.3g}, more than {tolerance:g}")
        largest = max(largest, difference)
    return largest
