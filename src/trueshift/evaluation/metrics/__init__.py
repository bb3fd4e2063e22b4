"""The registry of metrics: each is one pure function on a :class:`Pair` and one entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from trueshift.evaluation.metrics.cells import e_distance, mmd2
from trueshift.evaluation.metrics.de import (
    de_direction,
    de_overlap,
    de_overlap_topk,
    de_pr_auc,
    de_precision,
    de_recall,
    de_roc_auc,
    vcc2025_overlap,
)
from trueshift.evaluation.metrics.delta import cosine_delta, pearson_delta, spearman_delta
from trueshift.evaluation.metrics.effect import (
    effect_direction,
    effect_overlap,
    effect_overlap_topk,
    effect_pr_auc,
    effect_spearman,
)
from trueshift.evaluation.metrics.errors import mae, mse, rmse
from trueshift.evaluation.metrics.legacy import legacy_pearson, legacy_r2_topk
from trueshift.evaluation.metrics.pair import Pair, Values
from trueshift.evaluation.metrics.panel import centroid_accuracy, pds_cosine, pds_l1, pds_l2, vcc2025_pds
from trueshift.evaluation.metrics.raw import pearson2_mean_topk, pearson2_var_topk, r2_mean_topk, r2_var_topk
from trueshift.evaluation.metrics.systema import systema_pearson, systema_pearson_delta
from trueshift.evaluation.metrics.topk import pearson2_topk, pearson_topk, r2_centered_topk, r2_topk
from trueshift.evaluation.metrics.weighted import weighted_r2, wmse

__all__ = ["METRICS", "K", "Metric", "Pair", "Values"]

K = ("20", "40", "50", "80", "100", "all")
INFINITY = float("inf")


@dataclass(frozen=True)
class Metric:
    """A metric and what one must know to read it.

    ``function`` takes a :class:`Pair`, and k if ``per_k``. ``needs`` holds what it is undefined without: "controls"
    (too few of them), "effect" (a differentially expressed gene in truth), "cells" (the prediction is one profile),
    "copies" (as "cells", but copies of a profile will do), "panel" (other conditions of the context), "training" (a
    mean training effect), "samples" (the true cells, one by one). ``direction`` is "higher" or "lower", whichever is
    better; ``bounds`` are the least and greatest possible value, ``optimum`` is that of a perfect prediction.
    ``ranks`` is False where a metric is shown beside the others and never ranks models.
    """

    name: str
    function: Callable[..., Values]
    needs: tuple[str, ...]
    direction: str
    bounds: tuple[float, float]
    optimum: float
    formula: str
    source: str
    per_k: bool = False
    ranks: bool = True


# Kinds of metric by their bounds, and what is common to them.
_R2 = partial(Metric, direction="higher", bounds=(-INFINITY, 1), optimum=1)
_CORRELATION = partial(Metric, direction="higher", bounds=(-1, 1), optimum=1)
_SHARE = partial(Metric, direction="higher", bounds=(0, 1), optimum=1)
_ERROR = partial(Metric, direction="lower", bounds=(0, INFINITY), optimum=0)
_DISTANCE = partial(Metric, direction="lower", bounds=(-INFINITY, INFINITY), optimum=0)

_RAW = "; near 1 for every prediction, for raw levels of genes dominate it"
_SCGEN = "scGen, Lotfollahi, Wolf & Theis 2019"
_CPA = "CPA, Lotfollahi et al. 2023; r2_score in scikit-learn"
_SYSTEMA = "Systema, Viñas Torné et al. 2025"
_WEIGHTED = "Mejia et al., arXiv 2506.22641"
_PANEL = ", own targets removed; place 0 … n − 1 of the own truth in the panel, ties at their mean"
_PDS = "perturbation discrimination score; PerturBench, Wu et al. 2024; Virtual Cell Challenge 2025"
_VCC = "Virtual Cell Challenge 2025, Roohani et al., Cell 2025; cell-eval"

_ALL = [
    _R2(
        "r2_topk",
        r2_topk,
        needs=("controls", "effect"),
        formula="1 − Σ(δ − δ̂)² / Σδ² over the top k genes",
        source="coefficient of determination against 'no effect'; r2_score([δ, −δ], [δ̂, −δ̂]) in scikit-learn",
        per_k=True,
    ),
    _R2(
        "r2_centered_topk",
        r2_centered_topk,
        needs=("controls",),
        formula="1 − Σ(δ − δ̂)² / Σ(δ − mean δ)² over the top k genes",
        source="r2_score(δ, δ̂) in scikit-learn",
        per_k=True,
        ranks=False,
    ),
    _CORRELATION(
        "pearson_topk",
        pearson_topk,
        needs=("controls",),
        formula="Pearson r(δ, δ̂) over the top k genes",
        source="Pearson 1895",
        per_k=True,
        ranks=False,
    ),
    _SHARE(
        "pearson2_topk",
        pearson2_topk,
        needs=("controls",),
        formula="Pearson r(δ, δ̂)² over the top k genes",
        source="Pearson 1895",
        per_k=True,
        ranks=False,
    ),
    _R2(
        "r2_mean_topk",
        r2_mean_topk,
        needs=("controls",),
        formula="1 − Σ(x − x̂)² / Σ(x − mean x)² over the top k genes" + _RAW,
        source=_CPA,
        per_k=True,
        ranks=False,
    ),
    _SHARE(
        "pearson2_mean_topk",
        pearson2_mean_topk,
        needs=("controls",),
        formula="Pearson r(x, x̂)² over the top k genes" + _RAW,
        source=_SCGEN,
        per_k=True,
        ranks=False,
    ),
    _R2(
        "r2_var_topk",
        r2_var_topk,
        needs=("cells", "controls"),
        formula="1 − Σ(v − v̂)² / Σ(v − mean v)² over the top k genes, v the variance over cells" + _RAW,
        source=_CPA,
        per_k=True,
        ranks=False,
    ),
    _SHARE(
        "pearson2_var_topk",
        pearson2_var_topk,
        needs=("cells", "controls"),
        formula="Pearson r(v, v̂)² over the top k genes, v the variance over cells" + _RAW,
        source=_SCGEN,
        per_k=True,
        ranks=False,
    ),
    _SHARE(
        "legacy_r2_topk",
        legacy_r2_topk,
        needs=("samples",),
        formula="mean over true cells i of Pearson r(x_i − c̄, x̂ − c̄)² over the k genes with the largest |x_i − c̄|, "
        "c̄ the mean of all controls; high for constants, for its noise is on both sides",
        source="MERGE (github.com/joshuaroll/MERGE)",
        per_k=True,
        ranks=False,
    ),
    _CORRELATION(
        "legacy_pearson",
        legacy_pearson,
        needs=("samples",),
        formula="mean over true cells i of Pearson r(x_i − c̄, x̂ − c̄) over all genes, c̄ the mean of all controls; high "
        "for constants, as legacy_r2_topk",
        source="pearson_de in MERGE (github.com/joshuaroll/MERGE)",
        ranks=False,
    ),
    _CORRELATION(
        "pearson_delta",
        pearson_delta,
        needs=("controls",),
        formula="Pearson r(δ, δ̂) over all genes",
        source="Pearson 1895",
    ),
    _CORRELATION(
        "spearman_delta",
        spearman_delta,
        needs=("controls",),
        formula="Pearson r(rank δ, rank δ̂) over all genes",
        source="Spearman 1904",
    ),
    _CORRELATION(
        "cosine_delta",
        cosine_delta,
        needs=("controls",),
        formula="Σδδ̂ / (|δ| |δ̂|) over all genes",
        source="cosine similarity",
    ),
    _CORRELATION(
        "systema_pearson",
        systema_pearson,
        needs=("training",),
        formula="Pearson r(x − μ, x̂ − μ) over all genes, μ the mean training perturbed centroid of the context",
        source=_SYSTEMA,
    ),
    _CORRELATION(
        "systema_pearson_delta",
        systema_pearson_delta,
        needs=("controls", "training"),
        formula="Pearson r(δ − δ̄, δ̂ − δ̄) over all genes, δ̄ the mean training effect",
        source=_SYSTEMA + "; on effects, for contexts without training perturbations",
    ),
    _R2(
        "weighted_r2",
        weighted_r2,
        needs=("controls",),
        formula="1 − Σw(δ − δ̂)² / Σw(δ − Σwδ)², w ∝ (|z| − min |z|)², Σw = 1, z the rank-sum statistic of truth",
        source=_WEIGHTED,
    ),
    _ERROR(
        "wmse",
        wmse,
        needs=("controls",),
        formula="Σw(x − x̂)², w as in weighted_r2",
        source=_WEIGHTED,
    ),
    _SHARE(
        "pds_l1",
        pds_l1,
        needs=("controls", "panel"),
        formula="1 − place / (n − 1) by Σ|δ̂ − δ|" + _PANEL,
        source=_PDS,
    ),
    _SHARE(
        "pds_l2",
        pds_l2,
        needs=("controls", "panel"),
        formula="1 − place / (n − 1) by √Σ(δ̂ − δ)²" + _PANEL,
        source=_PDS,
    ),
    _SHARE(
        "pds_cosine",
        pds_cosine,
        needs=("controls", "panel"),
        formula="1 − place / (n − 1) by 1 − cosine(δ̂, δ)" + _PANEL,
        source=_PDS,
    ),
    _SHARE(
        "centroid_accuracy",
        centroid_accuracy,
        needs=("panel",),
        formula="share of the other conditions of the panel with x farther from x̂ than the own, Euclidean; ties half",
        source=_SYSTEMA,
    ),
    _SHARE(
        "vcc2025_pds",
        vcc2025_pds,
        needs=("controls", "panel"),
        formula="1 − place / n by Σ|δ̂ − δ|, own targets removed; ties by the order of the table",
        source=_VCC,
        ranks=False,
    ),
    _SHARE(
        "effect_overlap",
        effect_overlap,
        needs=("controls", "effect"),
        formula="share of the N true DEGs among the N genes with the largest |δ̂|; ties as expected",
        source="overlap at N, without predicted cells",
    ),
    _SHARE(
        "effect_overlap_topk",
        effect_overlap_topk,
        needs=("controls", "effect"),
        formula="share of the top k genes among the k genes with the largest |δ̂|; ties as expected",
        source="overlap at k, without predicted cells",
        per_k=True,
    ),
    _SHARE(
        "effect_pr_auc",
        effect_pr_auc,
        needs=("controls", "effect"),
        formula="average precision of finding the true DEGs by |δ̂|",
        source="average_precision_score in scikit-learn",
    ),
    _SHARE(
        "effect_direction",
        effect_direction,
        needs=("controls", "effect"),
        formula="share of the true DEGs with sign δ̂ = sign δ; δ̂ = 0 does not agree",
        source="sign agreement",
    ),
    _CORRELATION(
        "effect_spearman",
        effect_spearman,
        needs=("controls", "effect"),
        formula="Spearman ρ(δ, δ̂) over the true DEGs, three at least",
        source="Spearman 1904; cell-eval",
    ),
    _SHARE(
        "de_overlap",
        de_overlap,
        needs=("cells", "controls", "effect"),
        formula="share of the N true DEGs among the first N by predicted adjusted p, then |δ̂|; ties as expected",
        source="overlap at N",
    ),
    _SHARE(
        "de_overlap_topk",
        de_overlap_topk,
        needs=("cells", "controls", "effect"),
        formula="share of the top k genes among the first k by predicted adjusted p, then |δ̂|; ties as expected",
        source="overlap at k",
        per_k=True,
    ),
    _SHARE(
        "de_precision",
        de_precision,
        needs=("cells", "controls", "effect"),
        formula="|true DEGs ∩ predicted DEGs| / |predicted DEGs|, 0 if none is predicted",
        source="precision",
    ),
    _SHARE(
        "de_recall",
        de_recall,
        needs=("cells", "controls", "effect"),
        formula="|true DEGs ∩ predicted DEGs| / |true DEGs|",
        source="recall",
    ),
    _SHARE(
        "de_direction",
        de_direction,
        needs=("cells", "controls", "effect"),
        formula="effect_direction, for predicted cells only",
        source="sign agreement; cell-eval",
    ),
    _SHARE(
        "de_pr_auc",
        de_pr_auc,
        needs=("cells", "controls", "effect"),
        formula="average precision of finding the true DEGs by −log10 predicted adjusted p",
        source="average_precision_score in scikit-learn",
    ),
    _SHARE(
        "de_roc_auc",
        de_roc_auc,
        needs=("cells", "controls", "effect"),
        formula="area under the ROC curve of finding the true DEGs by −log10 predicted adjusted p, ties half",
        source="Hanley & McNeil 1982; roc_auc_score in scikit-learn",
    ),
    _SHARE(
        "vcc2025_overlap",
        vcc2025_overlap,
        needs=("copies", "controls", "effect"),
        formula="share of the N true DEGs among the N predicted DEGs with the largest |δ̂|, or all if fewer",
        source=_VCC + ", which orders by |log2 ratio of means|",
        ranks=False,
    ),
    _DISTANCE(
        "e_distance",
        e_distance,
        needs=("cells",),
        formula="2 E|X − Y| − E|X − X′| − E|Y − Y′|, Euclidean, U-statistics; X true, Y predicted cells",
        source="Székely & Rizzo 2013; Peidli et al. 2024, there of squared distances",
    ),
    _DISTANCE(
        "mmd2",
        mmd2,
        needs=("cells",),
        formula="E k(X, X′) + E k(Y, Y′) − 2 E k(X, Y), Gaussian k with the median distance within truth, U-statistics",
        source="Gretton et al. 2012",
    ),
    _ERROR(
        "mse",
        mse,
        needs=(),
        formula="mean of (x − x̂)² over all genes",
        source="mean squared error",
    ),
    _ERROR(
        "rmse",
        rmse,
        needs=(),
        formula="√(mean of (x − x̂)² over all genes)",
        source="root mean squared error; its mean over conditions is the MRRMSE of OpenProblems",
    ),
    _ERROR(
        "mae",
        mae,
        needs=(),
        formula="mean of |x − x̂| over all genes",
        source="mean absolute error; its mean over conditions is the MRMAE of OpenProblems",
    ),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
