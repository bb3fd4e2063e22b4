"""Whether tests of the predicted cells find the genes that tests of the true cells find.

Predicted cells are tested against the input controls as true cells are against the reference controls; a DEG has an
adjusted p < .05. Predicted genes are ordered by adjusted p, then by |δ̂|; ties beyond that share their places.
Undefined for predictions of one profile: cells must not be made up for them (vcc2025_overlap does, as published).
"""

import numpy as np

from trueshift.evaluation.metric import SHARE, metric
from trueshift.evaluation.metrics.effect import (
    all_chosen,
    all_degs,
    effect_direction,
    effect_size,
    top_genes,
    true_degs,
    undefined,
)
from trueshift.evaluation.metrics.ranking import Ranking, average_precision, expected_hits, rank_genes, roc_auc, share
from trueshift.evaluation.pair import Pair, Values, once, values
from trueshift.evaluation.truth import FDR

_VCC = "Virtual Cell Challenge 2025, Roohani et al., Cell 2025; cell-eval"


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="share of the N true DEGs among the first N by predicted adjusted p, then |δ̂|; ties as expected",
    source="overlap at N",
)
def de_overlap(pair: Pair) -> Values:
    """Share of the N true DEGs among the first N predicted genes."""
    degs = true_degs(pair)
    hits = expected_hits(_order(pair), degs, degs.sum(axis=1))
    return values(share(hits, degs.sum(axis=1)), _undefined(pair) | all_degs(pair))


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="share of the top k genes among the first k by predicted adjusted p, then |δ̂|; ties as expected",
    source="overlap at k",
    per_k=True,
)
def de_overlap_topk(pair: Pair, k: int) -> Values:
    """Share of the truth's top k genes among the first k predicted ones; undefined if these are all genes."""
    hits = expected_hits(_order(pair), top_genes(pair, k), k)
    return values(hits / k, _undefined(pair) | all_chosen(pair, k))


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="|true DEGs ∩ predicted DEGs| / |predicted DEGs|, 0 if none is predicted",
    source="precision",
)
def de_precision(pair: Pair) -> Values:
    """Share of the predicted DEGs that are true ones; 0 if none is predicted."""
    found = _predicted_degs(pair)
    right = (found & true_degs(pair)).sum(axis=1)
    return values(right / np.maximum(found.sum(axis=1), 1), _undefined(pair))


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="|true DEGs ∩ predicted DEGs| / |true DEGs|",
    source="recall",
)
def de_recall(pair: Pair) -> Values:
    """Share of the true DEGs that are predicted DEGs."""
    degs = true_degs(pair)
    right = (degs & _predicted_degs(pair)).sum(axis=1)
    return values(share(right, degs.sum(axis=1)), _undefined(pair))


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="effect_direction, for predicted cells only",
    source="sign agreement; cell-eval",
)
def de_direction(pair: Pair) -> Values:
    """Share of the true DEGs whose δ̂ has the sign of δ: effect_direction, for predictions of cells only."""
    return values(effect_direction(pair).value, _undefined(pair))


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="average precision of finding the true DEGs by −log10 predicted adjusted p",
    source="average_precision_score in scikit-learn",
)
def de_pr_auc(pair: Pair) -> Values:
    """Average precision of finding the true DEGs by −log10 of the predicted adjusted p. Chance: N / G."""
    return values(average_precision(_by_p(pair), true_degs(pair)), _undefined(pair) | all_degs(pair))


@metric(
    **SHARE,
    needs=("cells", "controls", "effect"),
    formula="area under the ROC curve of finding the true DEGs by −log10 predicted adjusted p, ties half",
    source="Hanley & McNeil 1982; roc_auc_score in scikit-learn",
)
def de_roc_auc(pair: Pair) -> Values:
    """Area under the ROC curve of finding the true DEGs by −log10 of the predicted adjusted p. Chance: 1/2."""
    return values(roc_auc(_by_p(pair), true_degs(pair)), _undefined(pair) | all_degs(pair))


@metric(
    **SHARE,
    needs=("copies", "controls", "effect"),
    formula="share of the N true DEGs among the N predicted DEGs with the largest |δ̂|, or all if fewer",
    source=_VCC + ", which orders by |log2 ratio of means|",
    ranks=False,
)
def vcc2025_overlap(pair: Pair) -> Values:
    """The DE score of the Virtual Cell Challenge 2025: overlap at N of predicted *DEGs*, largest effects first.

    Of the predicted DEGs the N with the largest |δ̂| are kept, or all if they are fewer; the value is the number of
    true DEGs among them, over N. cell-eval orders them by |log2 ratio of mean expression|, of which an infinite one
    comes first; |δ̂| is a difference of mean log expression and finite. It scores 0 without true DEGs; here that is
    undefined. As the challenge wants cells of every model, copies of the profile stand for those of one that has none.
    """
    assert pair.test_copies is not None
    p, degs = pair.test_copies.p_adjusted, true_degs(pair)
    hits = expected_hits(rank_genes(p >= FDR, -effect_size(pair)), degs & (p < FDR), degs.sum(axis=1))
    return values(share(hits, degs.sum(axis=1)), undefined(pair) | _untested(pair, p))


@once
def _order(pair: Pair) -> Ranking:
    return rank_genes(_p(pair), -effect_size(pair))


@once
def _by_p(pair: Pair) -> Ranking:
    return rank_genes(_p(pair))


def _predicted_degs(pair: Pair) -> np.ndarray:
    return _p(pair) < FDR


def _p(pair: Pair) -> np.ndarray:
    assert pair.test_hat is not None
    return pair.test_hat.p_adjusted


def _undefined(pair: Pair) -> dict[str, np.ndarray]:
    return undefined(pair) | _untested(pair, _p(pair))


def _untested(pair: Pair, p: np.ndarray) -> dict[str, np.ndarray]:
    return {"no test": undefined(pair)["no test"] | np.isnan(p).any(axis=1)}
