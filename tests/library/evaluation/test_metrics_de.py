from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from trueshift.evaluation.metrics import de, effect
from trueshift.evaluation.metrics.ranking import average_precision, expected_hits, rank_genes, roc_auc
from trueshift.evaluation.pair import Pair
from trueshift.evaluation.pair import Tests as GeneTests

EFFECT = (effect.effect_overlap, effect.effect_pr_auc, effect.effect_direction, effect.effect_spearman)
CELLS = (de.de_overlap, de.de_precision, de.de_recall, de.de_direction, de.de_pr_auc, de.de_roc_auc, de.vcc2025_overlap)
EVERY = "every gene is differentially expressed"


def pair(delta: np.ndarray, delta_hat: np.ndarray, p: np.ndarray, p_hat: np.ndarray | None = None) -> Pair:
    """Truth is tested with ``p``, predicted cells with ``p_hat`` (both adjusted)."""
    delta, delta_hat, p = (np.atleast_2d(np.asarray(a, dtype=float)) for a in (delta, delta_hat, p))
    p_hat = p if p_hat is None else np.atleast_2d(np.asarray(p_hat, dtype=float))
    c_ref, c_in = np.full(delta.shape, 2.0), np.full(delta.shape, 2.5)
    tests = GeneTests(delta_hat, p_hat)
    return Pair.of(
        delta + c_ref,
        delta_hat + c_in,
        c_ref,
        c_in,
        np.lexsort((-np.abs(delta), p), axis=1),
        z=np.where(np.isnan(p), np.nan, delta),
        significant=p < 0.05,
        test_hat=tests,
        test_copies=tests,
    )


@pytest.fixture(scope="module")
def noisy() -> Pair:
    """Effects and p are rounded: full of ties."""
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(6, 50))
    delta_hat = np.round(delta + rng.normal(size=(6, 50)), 1)
    return pair(delta, delta_hat, np.exp(-3 * np.abs(delta)), np.round(np.exp(-2.5 * np.abs(delta_hat)), 2))


def test_areas_and_shares_agree_with_scikit_learn(noisy: Pair) -> None:
    assert noisy.significant is not None and noisy.test_hat is not None
    for i, (label, p_hat) in enumerate(zip(noisy.significant, noisy.test_hat.p_adjusted, strict=True)):
        score = -np.log10(np.maximum(p_hat, np.nextafter(0, 1)))
        predicted = p_hat < 0.05
        delta, delta_hat = noisy.delta[i], np.where(np.abs(noisy.delta_hat[i]) > 1e-6, noisy.delta_hat[i], 0)
        expected = {
            de.de_pr_auc: average_precision_score(label, score),
            de.de_roc_auc: roc_auc_score(label, score),
            de.de_precision: precision_score(label, predicted),
            de.de_recall: recall_score(label, predicted),
            effect.effect_pr_auc: average_precision_score(label, np.abs(delta_hat)),
            effect.effect_direction: np.mean(np.sign(delta[label]) == np.sign(delta_hat[label])),
            effect.effect_spearman: spearmanr(delta[label], delta_hat[label]).statistic,
        }
        found = {metric: metric(noisy).value[i] for metric in expected}
        assert found == pytest.approx(expected)
    np.testing.assert_array_equal(de.de_direction(noisy).value, effect.effect_direction(noisy).value)


KEYS = hnp.arrays(np.float64, (1, 5), elements=st.integers(0, 2))


@given(KEYS, KEYS, hnp.arrays(bool, (1, 5)), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_ranking_is_the_mean_over_all_orders_of_tied_genes(
    first: np.ndarray, second: np.ndarray, wanted: np.ndarray, n: int
) -> None:
    hits = []
    for luck in permutations(range(5)):
        order = np.lexsort((luck, second[0], first[0]))
        hits.append(wanted[0, order[:n]].sum())
    ranking = rank_genes(first, second)
    assert expected_hits(ranking, wanted, n)[0] == pytest.approx(np.mean(hits))
    score = -(3 * first[0] + second[0])
    if wanted.any():
        assert average_precision(ranking, wanted)[0] == pytest.approx(average_precision_score(wanted[0], score))
    if wanted.any() and not wanted.all():
        assert roc_auc(ranking, wanted)[0] == pytest.approx(roc_auc_score(wanted[0], score))


def test_overlaps_by_hand() -> None:
    delta = [4.0, -3, 2, 1, 0.5, 0]
    p = [0.001, 0.002, 0.01, 0.2, 0.5, 0.9]  # 3 DEGs; order 0 1 2 3 4 5
    delta_hat = [1.0, 0, 5, -6, 2, 0]  # by size: 3 2 4 0, then 1 and 5
    p_hat = [0.02, 0.5, 0.001, 0.03, 0.02, 0.5]  # then by size: 2 4 0 3, then 1 and 5
    x = pair(delta, delta_hat, p, p_hat)
    assert effect.effect_overlap(x).value == pytest.approx(1 / 3)
    assert [effect.effect_overlap_topk(x, k).value[0] for k in (1, 2, 4, 5)] == pytest.approx([0, 0, 3 / 4, 4.5 / 5])
    assert de.de_overlap(x).value == pytest.approx(2 / 3)
    assert [de.de_overlap_topk(x, k).value[0] for k in (1, 2, 4, 5)] == pytest.approx([0, 0, 3 / 4, 4.5 / 5])
    assert de.de_precision(x).value == pytest.approx(2 / 4)
    assert de.de_recall(x).value == pytest.approx(2 / 3)
    assert effect.effect_direction(x).value == pytest.approx(2 / 3)
    assert de.vcc2025_overlap(x).value == pytest.approx(1 / 3)  # of the DEGs 2 4 0 3, by size 3 2 4
    few = pair(delta, delta_hat, p, [0.02, *[0.5] * 5])
    assert de.vcc2025_overlap(few).value == pytest.approx(1 / 3)  # one predicted DEG, over N = 3
    assert de.de_overlap_topk(x, 6).reason[0] == effect.effect_overlap_topk(x, 6).reason[0] == "all genes"


@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("wobble", [0.0, 3e-7])
def test_a_constant_profits_from_no_order_of_genes(shift: float, wobble: float) -> None:
    rng = np.random.default_rng(1)
    delta = np.sort(rng.normal(size=(3, 40)))[:, ::-1]
    p = np.exp(-3 * np.abs(delta))
    x = pair(delta, shift + wobble * rng.normal(size=delta.shape), p, np.ones(delta.shape))
    assert x.significant is not None
    share = x.significant.mean(axis=1)
    for metric in (effect.effect_overlap, effect.effect_pr_auc, de.de_overlap, de.de_pr_auc):
        assert metric(x).value == pytest.approx(share)
    assert effect.effect_overlap_topk(x, 10).value == pytest.approx(10 / 40)
    assert de.de_overlap_topk(x, 10).value == pytest.approx(10 / 40)
    assert de.de_roc_auc(x).value == pytest.approx(0.5)
    for metric in (de.de_precision, de.de_recall, de.vcc2025_overlap):
        assert metric(x).value.tolist() == [0, 0, 0]
    rho = effect.effect_spearman(x)
    assert (rho.value.tolist(), rho.constant.tolist()) == ([0] * 3, [True] * 3)
    if not shift:
        assert effect.effect_direction(x).value.tolist() == [0, 0, 0]


def test_undefined_without_test_degs_or_contrast() -> None:
    rng = np.random.default_rng(2)
    delta, delta_hat = rng.normal(size=(2, 5, 6))
    p = np.full((5, 6), 0.01)
    p[0, 2:], p[1], p[2], p[4, 3:] = 0.5, np.nan, 0.5, 0.5
    p_hat = np.full((5, 6), 0.2)
    p_hat[4] = np.nan
    x = pair(delta, delta_hat, p, p_hat)
    every = {effect.effect_overlap, effect.effect_pr_auc, de.de_overlap, de.de_pr_auc, de.de_roc_auc}
    for metric in (*EFFECT, *CELLS):
        few = "fewer than 3 DEGs" if metric is effect.effect_spearman else ""
        untested = "no test" if metric in CELLS else ""
        assert metric(x).reason.tolist() == [few, "no test", "no effect", EVERY if metric in every else "", untested]
    for metric in (effect.effect_overlap_topk, de.de_overlap_topk):
        assert metric(x, 2).reason.tolist()[1:3] == ["no test", "no effect"]


def test_spearman_looks_at_degs_alone_and_marks_constants_among_them() -> None:
    p = [0.01, 0.01, 0.01, 0.9, 0.9]
    delta = [[1.0, 2, 3, 9, -9]] * 2 + [[2.0, 2, 2, 9, -9]]
    delta_hat = [[1.0, 5, 6, -7, 7], [0.4, 0.4, 0.4, 1, 2], [1.0, 2, 3, 4, 5]]
    found = effect.effect_spearman(pair(delta, delta_hat, [p] * 3))
    assert found.value[:2] == pytest.approx([1, 0])
    assert found.reason.tolist() == ["", "", "constant truth"]
    assert found.constant.tolist() == [False, True, False]
