"""Errors of the predicted mean expression itself; they need no controls."""

import numpy as np

from trueshift.evaluation.metrics.pair import Pair, Values, values


def mse(pair: Pair) -> Values:
    """Mean over genes of (x − x̂)²."""
    return values(((pair.x - pair.x_hat) ** 2).mean(axis=1), {})


def rmse(pair: Pair) -> Values:
    """√(mean over genes of (x − x̂)²). Its mean over conditions is the MRRMSE of OpenProblems."""
    error = mse(pair)
    return error._replace(value=np.sqrt(error.value))


def mae(pair: Pair) -> Values:
    """Mean over genes of |x − x̂|. Its mean over conditions is the MRMAE of OpenProblems."""
    return values(np.abs(pair.x - pair.x_hat).mean(axis=1), {})
