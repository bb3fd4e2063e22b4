"""Errors of the predicted mean expression itself; they need no controls."""

import numpy as np

from trueshift.evaluation.metric import ERROR, metric
from trueshift.evaluation.pair import Pair, Values, values


@metric(
    **ERROR,
    needs=(),
    formula="mean of (x − x̂)² over all genes",
    source="mean squared error",
)
def mse(pair: Pair) -> Values:
    """Mean over genes of (x − x̂)²."""
    return values(((pair.x - pair.x_hat) ** 2).mean(axis=1), {})


@metric(
    **ERROR,
    needs=(),
    formula="√(mean of (x − x̂)² over all genes)",
    source="root mean squared error; its mean over conditions is the MRRMSE of OpenProblems",
)
def rmse(pair: Pair) -> Values:
    """√(mean over genes of (x − x̂)²). Its mean over conditions is the MRRMSE of OpenProblems."""
    error = mse(pair)
    return error._replace(value=np.sqrt(error.value))


@metric(
    **ERROR,
    needs=(),
    formula="mean of |x − x̂| over all genes",
    source="mean absolute error; its mean over conditions is the MRMAE of OpenProblems",
)
def mae(pair: Pair) -> Values:
    """Mean over genes of |x − x̂|. Its mean over conditions is the MRMAE of OpenProblems."""
    return values(np.abs(pair.x - pair.x_hat).mean(axis=1), {})
