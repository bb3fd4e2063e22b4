"""Whether the predicted effect singles out the genes that truly respond; for every model, from δ̂ alone.

True DEGs have an adjusted p < .05 against the reference controls; their number is N. Genes are ranked by |δ̂|; what
rounding can make of "no effect" is no effect, and a constant δ̂ ranks nothing. DEGs are chosen by their p, not by
|δ|, so that even δ̂ = δ need not reach 1 in overlaps and areas.
"""

import numpy as np

from trueshift.evaluation.metric import CORRELATION, SHARE, metric
from trueshift.evaluation.metrics.delta import correlation, is_constant, ranks
from trueshift.evaluation.metrics.ranking import Ranking, average_precision, expected_hits, rank_genes, share
from trueshift.evaluation.pair import Pair, Values, once, values


@metric(
    **SHARE,
    needs=("controls", "effect"),
    formula="share of the N true DEGs among the N genes with the largest |δ̂|; ties as expected",
    source="overlap at N, without predicted cells",
)
def effect_overlap(pair: Pair) -> Values:
    """Share of the true DEGs among the N genes with the largest |δ̂|."""
    degs = true_degs(pair)
    hits = expected_hits(_by_size(pair), degs, degs.sum(axis=1))
    return values(share(hits, degs.sum(axis=1)), undefined(pair) | all_degs(pair))


@metric(
    **SHARE,
    needs=("controls", "effect"),
    formula="share of the top k genes among the k genes with the largest |δ̂|; ties as expected",
    source="overlap at k, without predicted cells",
    per_k=True,
)
def effect_overlap_topk(pair: Pair, k: int) -> Values:
    """Share of the truth's top k genes among the k with the largest |δ̂|; undefined if these are all genes."""
    return values(expected_hits(_by_size(pair), top_genes(pair, k), k) / k, undefined(pair) | all_chosen(pair, k))


@metric(
    **SHARE,
    needs=("controls", "effect"),
    formula="average precision of finding the true DEGs by |δ̂|",
    source="average_precision_score in scikit-learn",
)
def effect_pr_auc(pair: Pair) -> Values:
    """Average precision of finding the true DEGs by |δ̂|. Chance: N / G."""
    return values(average_precision(_by_size(pair), true_degs(pair)), undefined(pair) | all_degs(pair))


@metric(
    **SHARE,
    needs=("controls", "effect"),
    formula="share of the true DEGs with sign δ̂ = sign δ; δ̂ = 0 does not agree",
    source="sign agreement",
)
def effect_direction(pair: Pair) -> Values:
    """Share of the true DEGs whose δ̂ has the sign of δ. No effect has no sign."""
    degs = true_degs(pair)
    agree = degs & (np.sign(pair.delta) * np.sign(_moved(pair)) > 0)
    return values(share(agree.sum(axis=1), degs.sum(axis=1)), undefined(pair))


@metric(
    **CORRELATION,
    needs=("controls", "effect"),
    formula="Spearman ρ(δ, δ̂) over the true DEGs, three at least",
    source="Spearman 1904; cell-eval",
)
def effect_spearman(pair: Pair) -> Values:
    """Spearman's ρ of δ and δ̂ over the true DEGs; a prediction that is constant over them scores 0 and is marked."""
    degs = true_degs(pair)

    def constant(effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return is_constant(_only(effect, degs), np.where(degs, noise, 0))

    def ranked(effect: np.ndarray) -> np.ndarray:
        return _only(ranks(np.where(degs, effect, np.nan)), degs)

    still, still_hat = constant(pair.delta, pair.noise), constant(pair.delta_hat, pair.noise_hat)
    rho = correlation(ranked(pair.delta), ranked(_moved(pair)), still, still_hat)
    reasons = undefined(pair) | {"fewer than 3 DEGs": degs.sum(axis=1) < 3, "constant truth": still}
    return values(rho.value, reasons, rho.constant)


def _only(a: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen entries; the others become their mean, so that they add nothing to a correlation."""
    mean = share(np.where(chosen, a, 0).sum(axis=1), chosen.sum(axis=1))
    return np.where(chosen, a, mean[:, None])


def _moved(pair: Pair) -> np.ndarray:
    return np.where(np.abs(pair.delta_hat) > pair.noise_hat, pair.delta_hat, 0)


@once
def _by_size(pair: Pair) -> Ranking:
    return rank_genes(-effect_size(pair))


# --- shared with the metrics of predicted cells --------------------------------------------------------


def effect_size(pair: Pair) -> np.ndarray:
    """|δ̂|, (C, G); 0 where it is rounding, and everywhere in a row that is constant over genes."""
    size = np.abs(_moved(pair))
    size[is_constant(pair.delta_hat, pair.noise_hat)] = 0
    return size


def true_degs(pair: Pair) -> np.ndarray:
    """Which genes are differentially expressed in truth, (C, G)."""
    assert pair.significant is not None
    return pair.significant


def top_genes(pair: Pair, k: int) -> np.ndarray:
    """Which genes are the truth's first k, (C, G)."""
    chosen = np.zeros(pair.order.shape, dtype=bool)
    np.put_along_axis(chosen, pair.order[:, :k], True, axis=1)
    return chosen


def undefined(pair: Pair) -> dict[str, np.ndarray]:
    """Where truth was not tested, and where it has no DEG."""
    assert pair.z is not None
    return {"no test": np.isnan(pair.z).any(axis=1), "no effect": ~np.any(true_degs(pair), axis=1)}


def all_degs(pair: Pair) -> dict[str, np.ndarray]:
    """Where there is nothing to tell apart, because every gene is a DEG."""
    return {"every gene is differentially expressed": np.all(true_degs(pair), axis=1)}


def all_chosen(pair: Pair, k: int) -> dict[str, np.ndarray]:
    """Where an overlap of k genes is 1 whatever is predicted: there are no others."""
    return {"all genes": np.full(len(pair.order), k == pair.order.shape[1])}
