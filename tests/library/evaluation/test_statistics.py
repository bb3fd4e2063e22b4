import numpy as np
import pytest
from scipy import stats

from trueshift.evaluation.statistics import interval


def draw(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of m clusters of 1 to 6 conditions around a true mean of 0, correlated within a cluster."""
    clusters = np.repeat(np.arange(m), rng.integers(1, 7, size=m))
    return rng.normal(size=m)[clusters] + 0.3 * rng.normal(size=len(clusters)), clusters


@pytest.mark.parametrize(("m", "method"), [(5, "cluster t"), (19, "cluster t"), (20, "cluster bootstrap")])
def test_method_by_number_of_clusters(m: int, method: str) -> None:
    values, clusters = draw(np.random.default_rng(0), m)
    low, high, found = interval(values, clusters, seed=0)
    assert found == method
    assert low < values.mean() < high


@pytest.mark.parametrize(("m", "text"), [(0, "none (0 clusters)"), (1, "none (1 cluster)"), (4, "none (4 clusters)")])
def test_no_interval_below_five_clusters(m: int, text: str) -> None:
    found = interval(np.arange(3.0 * m), np.repeat(np.arange(m), 3), seed=0)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert found.ci_method == text


def test_equal_clusters_give_the_t_interval_of_their_means() -> None:
    values = np.random.default_rng(1).normal(size=(8, 3))
    low, high, _ = interval(values.ravel(), np.repeat(np.arange(8), 3), seed=0)
    expected = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    np.testing.assert_allclose((low, high), (expected.low, expected.high))


def test_bootstrap_agrees_with_scipy_for_single_conditions() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    low, high, _ = interval(values, np.arange(60), seed=0)
    reference = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    np.testing.assert_allclose((low, high), (reference.low, reference.high), atol=0.03)


def test_seeded_and_blind_to_row_order_within_reason() -> None:
    values, clusters = draw(np.random.default_rng(3), 30)
    assert interval(values, clusters, 5) == interval(values, clusters, 5)
    assert interval(values, clusters, 5) != interval(values, clusters, 6)
    names = np.array([f"p{c}" for c in clusters])
    assert interval(values, names, 5) == interval(values, clusters, 5)


@pytest.mark.parametrize(("m", "least"), [(8, 0.88), (40, 0.89)])
def test_coverage_under_correlation_within_clusters(m: int, least: float) -> None:
    rng = np.random.default_rng(4)
    hits = []
    for i in range(300):
        low, high, _ = interval(*draw(rng, m), seed=i)
        hits.append(low <= 0 <= high)
    assert least <= np.mean(hits) <= 0.99


def test_ignoring_clusters_would_be_too_narrow() -> None:
    values, clusters = draw(np.random.default_rng(5), 40)
    with_clusters, without = interval(values, clusters, 0), interval(values, np.arange(len(values)), 0)
    assert with_clusters.high - with_clusters.low > 1.3 * (without.high - without.low)


def test_undefined_values_are_refused() -> None:
    with pytest.raises(ValueError, match="undefined"):
        interval(np.array([1.0, np.nan]), np.array(["a", "b"]), 0)
