"""Distances between the distributions of true and predicted cells. Perfect is 0; chance can put them below it.

All are U-statistics: a cell is never compared with itself, so they are unbiased whatever the numbers of cells.
"""

import numpy as np

from trueshift.evaluation.metric import DISTANCE, metric
from trueshift.evaluation.pair import CellTerms, Pair, Values, values


@metric(
    **DISTANCE,
    needs=("cells",),
    formula="2 E|X − Y| − E|X − X′| − E|Y − Y′|, Euclidean, U-statistics; X true, Y predicted cells",
    source="Székely & Rizzo 2013; Peidli et al. 2024, there of squared distances",
)
def e_distance(pair: Pair) -> Values:
    """2 E|X − Y| − E|X − X′| − E|Y − Y′| with Euclidean distances, not squared.

    Székely & Rizzo, J. Stat. Plan. Inference 2013; for perturbed cells: Peidli et al., Nature Methods 2024, who square
    the distances.
    """
    assert pair.distance is not None
    return _apart(pair.distance, sign=1)


@metric(
    **DISTANCE,
    needs=("cells",),
    formula="E k(X, X′) + E k(Y, Y′) − 2 E k(X, Y), Gaussian k with the median distance within truth, U-statistics",
    source="Gretton et al. 2012",
)
def mmd2(pair: Pair) -> Values:
    """E k(X, X′) + E k(Y, Y′) − 2 E k(X, Y) with a Gaussian kernel (Gretton et al., JMLR 2012, unbiased form)."""
    assert pair.kernel is not None
    return _apart(pair.kernel, sign=-1)


def _apart(terms: CellTerms, sign: int) -> Values:
    """Between minus within, of distances (sign 1) or of similarities (sign −1)."""
    apart = sign * (2 * terms.cross - terms.within - terms.within_hat)
    return values(apart, {"fewer than 2 cells": np.isnan(apart)})
