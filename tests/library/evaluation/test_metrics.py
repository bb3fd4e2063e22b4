import warnings
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial.distance import cosine
from sklearn.metrics import r2_score

from trueshift.evaluation.metrics.delta import cosine_delta, pearson_delta, spearman_delta
from trueshift.evaluation.metrics.errors import mae, mse, rmse
from trueshift.evaluation.metrics.topk import pearson2_topk, pearson_topk, r2_centered_topk, r2_topk
from trueshift.evaluation.pair import CellTerms, Pair, Values
from trueshift.evaluation.pair import Tests as GeneTests
from trueshift.evaluation.registry import METRICS

EFFECTS = hnp.arrays(np.float64, (2, 8), elements=st.floats(-3, 3).map(lambda v: round(v, 3)))


def pair(delta: np.ndarray, delta_hat: np.ndarray, order: np.ndarray | None = None) -> Pair:
    """A pair with these effects; the two sides have different controls."""
    delta, delta_hat = np.atleast_2d(delta), np.atleast_2d(delta_hat)
    c_ref, c_in = np.full(delta.shape, 2.0), np.full(delta.shape, 2.5)
    if order is None:
        order = np.argsort(-np.abs(delta), axis=1)
    return Pair.of(delta + c_ref, delta_hat + c_in, c_ref, c_in, order)


@pytest.fixture(scope="module")
def noisy() -> Pair:
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(6, 50))
    return pair(delta, np.round(0.5 * delta + rng.normal(size=(6, 50)), 1))  # rounded: ties in the ranks


@pytest.mark.parametrize("k", [5, 50])
def test_topk_family_agrees_with_scikit_learn_and_scipy(noisy: Pair, k: int) -> None:
    for i in range(6):
        top = np.argsort(-np.abs(noisy.delta[i]))[:k]
        d, h = noisy.delta[i, top], noisy.delta_hat[i, top]
        r = stats.pearsonr(d, h).statistic
        expected = (r2_score([*d, *-d], [*h, *-h]), r2_score(d, h), r, r**2)
        found = [f(noisy, k).value[i] for f in (r2_topk, r2_centered_topk, pearson_topk, pearson2_topk)]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_delta_and_error_metrics_agree_with_scipy_and_numpy(noisy: Pair) -> None:
    for i in range(6):
        d, h = noisy.delta[i], noisy.delta_hat[i]
        expected = (stats.pearsonr(d, h).statistic, stats.spearmanr(d, h).statistic, 1 - cosine(d, h))
        found = [f(noisy).value[i] for f in (pearson_delta, spearman_delta, cosine_delta)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        error = noisy.x[i] - noisy.x_hat[i]
        expected = (np.mean(error**2), np.sqrt(np.mean(error**2)), np.abs(error).mean())
        np.testing.assert_allclose([f(noisy).value[i] for f in (mse, rmse, mae)], expected)


def test_values_by_hand() -> None:
    p = pair([2.0, 1, 1, 5], [1.0, 1, 3, 0], order=np.array([[0, 1, 2, 3]]))
    assert r2_topk(p, 3).value == pytest.approx(1 - 5 / 6)
    assert r2_centered_topk(p, 3).value == pytest.approx(1 - 5 / (2 / 3))
    assert pearson_topk(p, 3).value == pytest.approx(-0.5)
    assert pearson2_topk(p, 3).value == pytest.approx(0.25)
    assert mse(p).value == pytest.approx((0.5**2 + 0.5**2 + 2.5**2 + 4.5**2) / 4)
    assert mae(p).value == pytest.approx((0.5 + 0.5 + 2.5 + 4.5) / 4)


def test_topk_follows_the_order_given_not_the_size_of_the_effect() -> None:
    p = pair([9.0, 1, 2], [9.0, 0, 0], order=np.array([[1, 2, 0]]))
    assert r2_topk(p, 2).value == pytest.approx(0)
    assert r2_topk(p, 3).value > 0.9


@given(EFFECTS, st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_r2_topk_is_one_for_perfect_and_zero_for_no_effect(delta: np.ndarray, k: int) -> None:
    assume((np.abs(delta).max(axis=1) > 0.01).all())
    np.testing.assert_allclose(r2_topk(pair(delta, delta), k).value, 1, atol=1e-9)
    np.testing.assert_allclose(r2_topk(pair(delta, 0 * delta), k).value, 0, atol=1e-9)
    np.testing.assert_allclose(r2_topk(pair(delta, -delta), k).value, -3, atol=1e-9)


@given(EFFECTS, EFFECTS, st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_r2_topk_is_the_r2_score_of_mirrored_effects(delta: np.ndarray, delta_hat: np.ndarray, k: int) -> None:
    p = pair(delta, delta_hat)
    found = r2_topk(p, k)
    for i, order in enumerate(p.order):
        d, h = delta[i, order[:k]], delta_hat[i, order[:k]]
        if found.reason[i] == "":
            assert found.value[i] == pytest.approx(r2_score([*d, *-d], [*h, *-h]), rel=1e-6, abs=1e-9)
        else:
            assert np.abs(d).max() < 1e-3


def whole(
    delta: np.ndarray, delta_hat: np.ndarray, places: Sequence[int] | None = None, panel: Sequence[int] | None = None
) -> Pair:
    """A pair of which everything is known, as functions of the effects; genes stand in the order ``places``."""
    places = list(range(delta.shape[1]) if places is None else places)
    rng = np.random.default_rng(0)
    level = rng.uniform(1, 4, size=delta.shape[1])
    c_ref, c_in, centre = level + 0.0 * delta, level + 0.5 + 0.0 * delta, level + rng.normal(size=level.shape)
    x, x_hat = delta + c_ref, delta_hat + c_in
    cells = [x[i] + rng.normal(size=(4, delta.shape[1])) for i in range(len(delta))]
    p, p_hat = np.exp(-3 * np.abs(delta)), np.exp(-2 * np.abs(delta_hat))
    tests = GeneTests(delta_hat[:, places], p_hat[:, places])
    order = np.lexsort((-np.abs(delta), p), axis=1)
    terms = CellTerms(*rng.uniform(1, 2, size=(3, len(delta))))
    return Pair.of(
        x[:, places],
        x_hat[:, places],
        c_ref[:, places],
        c_in[:, places],
        np.argsort(places)[order],
        panel=np.array(panel or [0] * len(delta)),
        targets=[np.array([places.index(i)] if i % 2 else [], dtype=int) for i in range(len(delta))],
        centre=np.broadcast_to(centre[places], x.shape),
        mean_delta=np.broadcast_to((centre - level)[places], x.shape),
        z=delta[:, places],
        significant=(p < 0.05)[:, places],
        variance=(x**2)[:, places],
        variance_hat=(x_hat**2)[:, places],
        test_hat=tests,
        test_copies=tests,
        distance=terms,
        kernel=terms,
        samples=lambda i: cells[i][:, places],
        shared_control=(c_ref + 0.25)[:, places],
    )


def call(name: str, p: Pair, k: int) -> Values:
    return METRICS[name].function(p, *([k] if METRICS[name].per_k else []))


@given(EFFECTS, EFFECTS, st.permutations(range(8)), st.sampled_from(sorted(METRICS)))
@settings(max_examples=400, deadline=None)
def test_a_permutation_of_genes_changes_no_metric(
    delta: np.ndarray, delta_hat: np.ndarray, places: list[int], name: str
) -> None:
    before, after = call(name, whole(delta, delta_hat), 3), call(name, whole(delta, delta_hat, places), 3)
    np.testing.assert_allclose(after.value, before.value, rtol=1e-6, atol=1e-9)
    assert after.reason.tolist() == before.reason.tolist()
    assert after.constant.tolist() == before.constant.tolist()


@given(EFFECTS, EFFECTS, st.sampled_from(sorted(METRICS)))
@settings(max_examples=400, deadline=None)
def test_every_metric_keeps_its_declared_bounds_and_says_why_it_is_undefined(
    delta: np.ndarray, delta_hat: np.ndarray, name: str
) -> None:
    metric, found = METRICS[name], call(name, whole(delta, delta_hat), 5)
    assert ((found.reason != "") == np.isnan(found.value)).all()
    defined = found.value[~np.isnan(found.value)]
    assert ((defined >= metric.bounds[0] - 1e-9) & (defined <= metric.bounds[1] + 1e-9)).all()
    assert (found.value[found.constant] == 0).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_reaches_the_optimum(name: str) -> None:
    """Perfect: the same means, cells and tests. Genes are significant in the order of the size of their effect."""
    rng = np.random.default_rng(1)
    delta, level = rng.normal(size=(4, 30)), rng.uniform(1, 4, size=30)
    x, control = delta + level, np.broadcast_to(level, delta.shape)
    p, ones = np.exp(-3 * np.abs(delta)), np.ones(4)
    assert ((p < 0.05).sum(axis=1) > 3).all()
    perfect = Pair.of(
        x,
        x,
        control,
        control,
        np.argsort(p, axis=1),
        panel=np.zeros(4, dtype=int),
        targets=[np.array([i]) for i in range(4)],
        centre=control + 0.1 * rng.normal(size=30),
        mean_delta=np.broadcast_to(delta.mean(axis=0), delta.shape),
        z=delta,
        significant=p < 0.05,
        variance=x**2,
        variance_hat=x**2,
        test_hat=GeneTests(delta, p),
        test_copies=GeneTests(delta, p),
        distance=CellTerms(ones, ones, ones),
        kernel=CellTerms(ones, ones, ones),
        samples=lambda i: np.tile(x[i], (3, 1)),
        shared_control=control,
    )
    found = call(name, perfect, 5)
    assert found.reason.tolist() == [""] * 4
    np.testing.assert_allclose(found.value, METRICS[name].optimum, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METRICS if "controls" in METRICS[name].needs])
def test_a_condition_without_controls_disturbs_no_other(name: str) -> None:
    """Controls are those of a context, so that such a condition has a panel of its own."""
    rng = np.random.default_rng(2)
    known = whole(*rng.normal(size=(2, 4, 8)), panel=[0, 0, 0, 1])
    fields = ("delta", "delta_hat", "noise", "noise_hat")
    missing = replace(known, **{f: np.vstack([getattr(known, f)[:3], np.full(8, np.nan)]) for f in fields})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected, found = call(name, known, 5), call(name, missing, 5)
    np.testing.assert_array_equal(found.value[:3], expected.value[:3])
    assert not np.isnan(found.value[0])


CORRELATIONS = {"pearson": pearson_delta, "spearman": spearman_delta, "top": lambda p: pearson_topk(p, 4)}


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("wobble", [0.0, 3e-7])
def test_a_constant_prediction_scores_zero_and_is_marked(name: str, shift: float, wobble: float) -> None:
    delta = np.array([[3.0, -2, 1, 0.5, 0.2]])
    prediction = shift + wobble * np.array([[1.0, -1, 1, 0, -1]])  # what float32 makes of a constant
    found = CORRELATIONS[name](pair(delta, prediction))
    assert (found.value[0], found.reason[0], found.constant[0]) == (0, "", True)
    assert not CORRELATIONS[name](pair(delta, 0.01 * delta)).constant[0]


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_constant_truth_is_undefined_also_for_a_constant_prediction(name: str) -> None:
    for prediction in ([3.0, -2, 1, 0.5, 0.2], [0.0] * 5):
        found = CORRELATIONS[name](pair([1.5] * 5, prediction))
        assert np.isnan(found.value[0])
        assert found.reason[0] == "constant truth"
        assert not found.constant[0]
    assert r2_centered_topk(pair([1.5] * 5, [1.0] * 5), 4).reason[0] == "constant truth"


def test_cosine_and_r2_without_any_difference() -> None:
    still = cosine_delta(pair([3.0, -2, 1], [0.0] * 3))
    assert (still.value[0], still.constant[0]) == (0, True)
    shift = cosine_delta(pair([3.0, 0, 0], [1.0] * 3))
    assert (shift.value[0], shift.constant[0]) == (pytest.approx(3**-0.5), False)
    for found in (cosine_delta(pair([0.0] * 3, [1.0, 2, 3])), r2_topk(pair([0.0] * 3, [1.0, 2, 3]), 2)):
        assert (found.reason[0], np.isnan(found.value[0])) == ("no true difference", True)


def test_pair_checks_shapes_and_k() -> None:
    two, three = np.zeros((1, 2)), np.zeros((1, 3))
    with pytest.raises(ValueError, match="differ in shape"):
        Pair.of(two, three, two, two, np.zeros((1, 2), int))
    with pytest.raises(ValueError, match="k = 4 of 3 genes"):
        r2_topk(pair(three, three), 4)


def test_registry_is_complete() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.direction in ("higher", "lower")
        assert metric.bounds[0] < metric.bounds[1]
        assert metric.bounds[0] <= metric.optimum <= metric.bounds[1]
        assert metric.optimum == {"higher": 1, "lower": 0}[metric.direction]
        assert metric.formula
        assert metric.source
        assert set(metric.needs) <= {"controls", "effect", "cells", "copies", "panel", "training", "samples"}
        assert metric.per_k == ("k" in signature(metric.function).parameters)
        assert metric.function.__name__ == name
        assert metric.function.__doc__


def test_forms_kept_for_comparison_rank_nothing() -> None:
    shown = {name for name, metric in METRICS.items() if not metric.ranks}
    assert shown == {
        *("r2_centered_topk", "pearson_topk", "pearson2_topk", "legacy_r2_topk", "vcc2025_pds", "vcc2025_overlap"),
        *("r2_mean_topk", "pearson2_mean_topk", "r2_var_topk", "pearson2_var_topk", "legacy_pearson"),
    }
