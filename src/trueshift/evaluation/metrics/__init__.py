"""The registry of metrics: each is one pure function on a :class:`Pair` and one entry here."""

from collections.abc import Callable
from dataclasses import dataclass

from trueshift.evaluation.metrics.delta import cosine_delta, pearson_delta, spearman_delta
from trueshift.evaluation.metrics.errors import mae, mse
from trueshift.evaluation.metrics.pair import Pair, Values
from trueshift.evaluation.metrics.topk import pearson2_topk, pearson_topk, r2_centered_topk, r2_topk

__all__ = ["METRICS", "K", "Metric", "Pair", "Values"]

K = ("20", "40", "50", "80", "100", "all")
INFINITY = float("inf")


@dataclass(frozen=True)
class Metric:
    """A metric and what one must know to read it.

    ``function`` takes a :class:`Pair`, and k if ``per_k``. ``needs`` holds "controls" (undefined with too few of them)
    and "effect" (undefined where the truth has no differentially expressed gene). ``direction`` is "higher" or
    "lower", whichever is better; ``bounds`` are the least and greatest possible value.
    """

    name: str
    function: Callable[..., Values]
    needs: tuple[str, ...]
    direction: str
    bounds: tuple[float, float]
    formula: str
    source: str
    per_k: bool = False


_ALL = [
    Metric(
        "r2_topk",
        r2_topk,
        needs=("controls", "effect"),
        direction="higher",
        bounds=(-INFINITY, 1),
        formula="1 − Σ(δ − δ̂)² / Σδ² over the top k genes",
        source="coefficient of determination against 'no effect'; r2_score([δ, −δ], [δ̂, −δ̂]) in scikit-learn",
        per_k=True,
    ),
    Metric(
        "r2_centered_topk",
        r2_centered_topk,
        needs=("controls",),
        direction="higher",
        bounds=(-INFINITY, 1),
        formula="1 − Σ(δ − δ̂)² / Σ(δ − mean δ)² over the top k genes",
        source="r2_score(δ, δ̂) in scikit-learn",
        per_k=True,
    ),
    Metric(
        "pearson_topk",
        pearson_topk,
        needs=("controls",),
        direction="higher",
        bounds=(-1, 1),
        formula="Pearson r(δ, δ̂) over the top k genes",
        source="Pearson 1895",
        per_k=True,
    ),
    Metric(
        "pearson2_topk",
        pearson2_topk,
        needs=("controls",),
        direction="higher",
        bounds=(0, 1),
        formula="Pearson r(δ, δ̂)² over the top k genes",
        source="Pearson 1895",
        per_k=True,
    ),
    Metric(
        "pearson_delta",
        pearson_delta,
        needs=("controls",),
        direction="higher",
        bounds=(-1, 1),
        formula="Pearson r(δ, δ̂) over all genes",
        source="Pearson 1895",
    ),
    Metric(
        "spearman_delta",
        spearman_delta,
        needs=("controls",),
        direction="higher",
        bounds=(-1, 1),
        formula="Pearson r(rank δ, rank δ̂) over all genes",
        source="Spearman 1904",
    ),
    Metric(
        "cosine_delta",
        cosine_delta,
        needs=("controls",),
        direction="higher",
        bounds=(-1, 1),
        formula="Σδδ̂ / (|δ| |δ̂|) over all genes",
        source="cosine similarity",
    ),
    Metric(
        "mse",
        mse,
        needs=(),
        direction="lower",
        bounds=(0, INFINITY),
        formula="mean of (x − x̂)² over all genes",
        source="mean squared error",
    ),
    Metric(
        "mae",
        mae,
        needs=(),
        direction="lower",
        bounds=(0, INFINITY),
        formula="mean of |x − x̂| over all genes",
        source="mean absolute error",
    ),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
