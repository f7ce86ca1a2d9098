"""Many comparisons at once: p values that stay honest however many were made."""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.05  # the chance that any of a family's differences stands although none is there


def adjusted(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values of one family of tests.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979. The i-th smallest of m is multiplied by m - i + 1; none is smaller than one
    before it, none larger than 1. It holds whatever the tests have to do with each other, which
    tests on the same queries need.

    Args:
        p: (m,) p values, 0..1; NaN is a test that could not be made, and is not counted.

    Returns:
        (m,) adjusted p values in the order given; a difference stands at LEVEL if its is no larger.

    Raises:
        ValueError: one is below 0 or above 1.
    """
    p = np.asarray(p, dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("a p value lies between 0 and 1")
    found = np.full(p.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return found
