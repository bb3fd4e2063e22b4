import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trueshift.evaluation.statistics import holm, interval, paired_p, ratio_interval, wilson


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


# --- ratios -------------------------------------------------------------------------------------------


def draw_ratio(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerators and denominators of m clusters, related to each other, true ratio 0.5."""
    noise, clusters = draw(rng, m)
    denominator = 1 + 0.2 * rng.normal(size=len(noise)) + 0.1 * noise
    return 0.5 * denominator + 0.1 * noise, denominator, clusters


def test_ratio_resamples_clusters_jointly() -> None:
    a, b, clusters = draw_ratio(np.random.default_rng(6), 25)
    low, high, method = ratio_interval(a, b, clusters, seed=0)
    rng = np.random.default_rng(7)
    rows = [np.flatnonzero(clusters == c) for c in range(25)]
    ratios, apart = [], []
    for _ in range(4000):
        taken, other = (np.concatenate([rows[c] for c in rng.integers(25, size=25)]) for _ in range(2))
        ratios.append(a[taken].sum() / b[taken].sum())
        apart.append(a[taken].mean() / b[other].mean())
    assert method == "cluster bootstrap"
    np.testing.assert_allclose((low, high), np.quantile(ratios, [0.025, 0.975]), atol=0.006)
    assert np.ptp(np.quantile(apart, [0.025, 0.975])) > 1.3 * (high - low)


def test_ratio_by_few_clusters_is_the_textbook_ratio_estimator() -> None:
    rng = np.random.default_rng(8)
    b = rng.uniform(0.9, 1.1, size=9)  # clusters of about one size
    a = 0.7 * b + 0.1 * rng.normal(size=9)
    low, high, method = ratio_interval(a, b, np.arange(9), seed=0)
    ratio = a.mean() / b.mean()
    # var(R) = (s_a² − 2 R s_ab + R² s_b²) / (n mean(b)²)
    cov = np.cov(a, b)
    error = np.sqrt((cov[0, 0] - 2 * ratio * cov[0, 1] + ratio**2 * cov[1, 1]) / 9) / b.mean()
    assert method == "cluster t"
    expected = stats.t.interval(0.95, 8, ratio, error)
    np.testing.assert_allclose((low, high), expected, atol=0.01 * np.ptp(expected))


@pytest.mark.parametrize("m", [8, 30])
def test_ratio_follows_scale_and_sign(m: int) -> None:
    a, b, clusters = draw_ratio(np.random.default_rng(9), m)
    low, high, _ = ratio_interval(a, b, clusters, 0)
    np.testing.assert_allclose(ratio_interval(3 * a, -2 * b, clusters, 0)[:2], (-1.5 * high, -1.5 * low))
    np.testing.assert_allclose(ratio_interval(4 * b, b, clusters, 0)[:2], (4, 4))


@pytest.mark.parametrize(("m", "least"), [(8, 0.88), (40, 0.89)])
def test_coverage_of_a_ratio(m: int, least: float) -> None:
    rng = np.random.default_rng(10)
    spans = [ratio_interval(*draw_ratio(rng, m), seed=i) for i in range(300)]
    assert least <= np.mean([low <= 0.5 <= high for low, high, _ in spans]) <= 0.99


def test_ratio_without_interval() -> None:
    a, clusters = np.arange(6.0), np.arange(6)
    assert ratio_interval(a[:4], a[:4], clusters[:4], 0).ci_method == "none (4 clusters)"
    none = ratio_interval(a, np.array([1.0, -1, 1, -1, 1, -1]), clusters, 0)
    assert none.ci_method == "none (the denominator is 0)"
    assert np.isnan(none[:2]).all()
    assert np.isnan(ratio_interval(a, np.array([1.0, 0, 0, 0, 0, 0]), clusters, 0)[:2]).all()
    with pytest.raises(ValueError, match="undefined"):
        ratio_interval(a, np.array([1.0, 1, 1, 1, 1, np.nan]), clusters, 0)


# --- shares and differences ---------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (20, 20), (61, 100)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(k: int, n: int, level: float) -> None:
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose(wilson(k / n, n, level), (expected.low, expected.high), atol=1e-12)


def test_wilson_of_nothing_and_of_no_share() -> None:
    assert np.isnan(wilson(np.nan, 0)).all()
    with pytest.raises(ValueError, match="share"):
        wilson(1.2, 5)


def test_paired_p_is_the_paired_t_test_for_single_conditions() -> None:
    rng = np.random.default_rng(11)
    x, y = rng.normal(0.3, 1, size=(2, 12))
    assert paired_p(x - y, np.arange(12)) == pytest.approx(stats.ttest_rel(x, y).pvalue)
    repeated = np.repeat(x - y, 4)  # the same thing four times is no more evidence
    assert paired_p(repeated, np.repeat(np.arange(12), 4)) == pytest.approx(stats.ttest_rel(x, y).pvalue)


def test_paired_p_needs_six_clusters() -> None:
    assert np.isnan(paired_p(np.repeat(0.1, 50), np.arange(50) % 5))
    assert paired_p(np.linspace(1, 1.1, 60), np.arange(60) % 6) < 1e-6


def test_paired_p_of_differences_that_do_not_vary() -> None:
    clusters = np.arange(8)
    assert paired_p(np.zeros(8), clusters) == 1
    assert paired_p(np.repeat(0.1, 8), clusters) == pytest.approx(0, abs=1e-12)
    assert paired_p(np.tile([0.5, -0.5], 8), np.repeat(clusters, 2)) == 1  # no difference in any cluster's mean
    with pytest.raises(ValueError, match="undefined"):
        paired_p(np.array([1.0, np.nan]), np.arange(2))


@pytest.mark.parametrize("sizes", [[4] * 6, [1, 2, 3, 4, 5, 6] * 5, [30, 3, 3, 3, 3, 3], [60, *[3] * 19]])
def test_paired_p_under_no_difference(sizes: list[int]) -> None:
    rng = np.random.default_rng(12)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    noise = rng.normal(size=(1000, len(sizes)))[:, clusters] + 0.3 * rng.normal(size=(1000, len(clusters)))
    p = np.array([paired_p(values, clusters) for values in noise])
    assert (p < 0.05).mean() <= 0.065  # .05 and two standard errors of the simulation
    assert (p < 0.005).mean() <= 0.0095
    if len(set(sizes)) == 1:
        assert (p < 0.05).mean() >= 0.035


@pytest.mark.parametrize("sizes", [[4] * 6, [1, 2, 3, 4, 5, 6, 9], [60, *[3] * 19]])
def test_error_and_freedom_of_unequal_clusters(sizes: list[int]) -> None:
    rng = np.random.default_rng(13)
    clusters, w = np.repeat(np.arange(len(sizes)), sizes), np.array(sizes) / np.sum(sizes)
    values = rng.normal(size=len(clusters))
    means = np.array([values[clusters == c].mean() for c in range(len(sizes))])
    centred = np.eye(len(w)) - w  # each cluster's mean less the mean over all
    form = centred.T @ np.diag(w**2) @ centred
    variance = means @ form @ means / np.trace(form) * (w**2).sum()
    freedom = np.trace(form) ** 2 / np.trace(form @ form)
    expected = 2 * stats.t.sf(abs(values.mean()) / np.sqrt(variance), freedom)
    assert paired_p(values, clusters) == pytest.approx(expected)
    if len(sizes) < 20:
        low, high, _ = interval(values, clusters, 0)
        np.testing.assert_allclose((low, high), stats.t.interval(0.95, freedom, values.mean(), np.sqrt(variance)))


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, np.nan, 0.02])), [0.6, np.nan, 0.04])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert holm(np.array([])).shape == (0,)
    assert np.isnan(holm(np.array([np.nan]))).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_steps_down(p: list[float]) -> None:
    adjusted = holm(np.array(p))
    bonferroni = np.minimum(np.array(p) * len(p), 1)
    assert (adjusted >= p).all()
    assert (adjusted <= bonferroni.max()).all()
    assert adjusted.min() == bonferroni.min()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    # what is rejected at .05 is what the textbook procedure rejects, one after the other
    rejected = 0
    for i, value in enumerate(np.sort(p)):
        if value * (len(p) - i) >= 0.05:
            break
        rejected += 1
    assert (adjusted < 0.05).sum() == rejected
