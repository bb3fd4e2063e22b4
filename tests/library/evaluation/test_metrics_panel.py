from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata
from sklearn.metrics import pairwise_distances

from trueshift.evaluation.metrics import panel as module
from trueshift.evaluation.metrics.panel import centroid_accuracy, pds_cosine, pds_l1, pds_l2, vcc2025_pds
from trueshift.evaluation.pair import Pair

PDS = {"manhattan": pds_l1, "euclidean": pds_l2, "cosine": pds_cosine}


def pair(
    delta: np.ndarray,
    delta_hat: np.ndarray,
    panel: Sequence[int] | None = None,
    targets: list[list[int]] | None = None,
) -> Pair:
    delta, delta_hat = np.asarray(delta, dtype=float), np.asarray(delta_hat, dtype=float)
    return Pair.of(
        delta + 2,
        delta_hat + 2.5,
        np.full(delta.shape, 2.0),
        np.full(delta.shape, 2.5),
        np.argsort(-np.abs(delta), axis=1),
        panel=np.array(panel or [0] * len(delta)),
        targets=[np.array(t, dtype=int) for t in targets or [[]] * len(delta)],
    )


def naive(delta: np.ndarray, delta_hat: np.ndarray, targets: list[list[int]], metric: str) -> list[float]:
    """One condition at a time: delete its target genes, rank the distances to all truths, ties at their mean rank."""
    scores = []
    for i, prediction in enumerate(delta_hat):
        true, predicted = np.delete(delta, targets[i], axis=1), np.delete(prediction, targets[i])
        distances = pairwise_distances(true, predicted[None], metric=metric)[:, 0]
        scores.append(1 - (rankdata(distances.round(6))[i] - 1) / (len(delta) - 1))
    return scores


@pytest.mark.parametrize("metric", PDS)
@pytest.mark.parametrize("block", [7, 1000])
def test_pds_is_the_rank_of_the_own_truth(metric: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(40, 60))
    delta_hat = 0.3 * delta + rng.normal(size=(40, 60))
    targets = [[], [3], [3, 17], *([i % 60] for i in range(37))]
    for i, genes in enumerate(targets):
        delta[i, genes] -= 30  # knocked down: would outweigh all else
    found = PDS[metric](pair(delta, delta_hat, targets=targets)).value
    np.testing.assert_allclose(found, naive(delta, delta_hat, targets, metric))
    assert 0.5 < found.mean() < 1


def test_centroid_accuracy_is_on_expression_and_removes_nothing() -> None:
    rng = np.random.default_rng(1)
    delta = rng.normal(size=(30, 20))
    p = pair(delta, 0.2 * delta + rng.normal(size=(30, 20)), targets=[[0]] * 30)
    expected = naive(p.x, p.x_hat, [[]] * 30, "euclidean")
    np.testing.assert_allclose(centroid_accuracy(p).value, expected)


def test_targets_are_removed_from_both_sides() -> None:
    delta = [[-9.0, 1, 0, 0], [0, 0, -9, 1]]
    swapped = [[-9.0, 0, 0, 1], [0, 1, -9, 0]]  # right on the targets, wrong on all else
    for f in PDS.values():
        assert f(pair(delta, swapped)).value.tolist() == [1, 1]
        np.testing.assert_array_equal(f(pair(np.abs(delta), np.abs(swapped), targets=[[0, 2], [2, 0]])).value, [0, 0])
    twice = pds_l2(pair(delta, swapped, targets=[[0, 0], [2]])).value
    np.testing.assert_array_equal(twice, pds_l2(pair(delta, swapped, targets=[[0], [2]])).value)


def test_panels_are_apart_and_one_of_one_is_undefined() -> None:
    rng = np.random.default_rng(2)
    delta, delta_hat = rng.normal(size=(2, 9, 12))
    panel = [0, 1, 0, 2, 1, 0, 1, 0, 1]
    for metric in (*PDS.values(), centroid_accuracy, vcc2025_pds):
        found = metric(pair(delta, delta_hat, panel))
        assert found.reason.tolist() == ["panel of one" if name == 2 else "" for name in panel]
        for name in (0, 1):
            rows = np.flatnonzero(np.array(panel) == name)
            alone = metric(pair(delta[rows], delta_hat[rows]))
            np.testing.assert_array_equal(found.value[rows], alone.value)


@pytest.mark.parametrize("wobble", [0, 1e-7])
def test_equal_distances_are_ties(wobble: float) -> None:
    """A constant is as far from all permutations of one effect; what float32 makes of it is no knowledge."""
    rng = np.random.default_rng(3)
    delta = np.stack([rng.permutation(np.arange(40.0)) / 20 for _ in range(9)])
    delta_hat = 0.7 + wobble * rng.normal(size=delta.shape)
    for metric in (*PDS.values(), centroid_accuracy):
        assert metric(pair(delta, delta_hat)).value.tolist() == [0.5] * 9
    np.testing.assert_allclose(vcc2025_pds(pair(delta, delta_hat)).value, 1 - np.arange(9) / 9)


@pytest.mark.parametrize("wobble", [0, 1e-6])
def test_an_effect_of_zero_has_no_direction(wobble: float) -> None:
    rng = np.random.default_rng(4)
    delta, nothing = rng.normal(size=(8, 30)), wobble * rng.normal(size=(8, 30))
    assert pds_cosine(pair(delta, nothing)).value.tolist() == [0.5] * 8
    only_targets = nothing + 5 * np.eye(8, 30)
    assert pds_cosine(pair(delta, only_targets, targets=[[i] for i in range(8)])).value.tolist() == [0.5] * 8
    silent = delta.copy()
    silent[0] = nothing[0]
    found = pds_cosine(pair(silent, delta)).value
    opposite = (pairwise_distances(silent[1:], delta[:1], metric="cosine") > 1).mean()
    assert found[0] == pytest.approx(opposite)  # its own is at distance 1


def test_equal_truths_share_their_places() -> None:
    effect = np.random.default_rng(5).normal(size=25)
    for metric in (*PDS.values(), centroid_accuracy):
        assert metric(pair(np.tile(effect, (5, 1)), np.tile(effect, (5, 1)))).value.tolist() == [0.5] * 5
        one_other = np.stack([effect, effect, -effect])
        assert metric(pair(one_other, one_other)).value.tolist() == [0.75, 0.75, 1]


def test_vcc2025_counts_from_one_n_and_by_the_order_of_the_table() -> None:
    delta = [[0.0, 0], [1, 0], [3, 0]]
    delta_hat = [[3.0, 0], [1.1, 0], [0.5, 0]]  # the third is as near to the first as to the second
    assert vcc2025_pds(pair(delta, delta_hat)).value == pytest.approx([1 / 3, 1, 1 / 3])
    assert pds_l1(pair(delta, delta_hat)).value.tolist() == [0, 1, 0]


@given(
    hnp.arrays(np.float64, (5, 4), elements=st.integers(-3, 3)),
    hnp.arrays(np.float64, (5, 4), elements=st.integers(-3, 3)),
    st.permutations(range(5)),
    st.sampled_from(sorted(PDS)),
)
@settings(max_examples=100, deadline=None)
def test_small_numbers_with_many_ties(delta: np.ndarray, delta_hat: np.ndarray, moved: list[int], metric: str) -> None:
    delta_hat[0] = 0
    found = PDS[metric](pair(delta, delta_hat)).value
    np.testing.assert_allclose(found, naive(delta, delta_hat, [[]] * 5, metric))
    np.testing.assert_allclose(PDS[metric](pair(delta[moved], delta_hat[moved])).value, found[moved])
