import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist, pdist

from trueshift.evaluation import cells
from trueshift.evaluation.cells import Centred, distances, kernel, pairs_of, to_each, within, within_and_between


@given(hnp.arrays(np.float32, (9, 4), elements=st.floats(0, 8, width=32)))
@settings(max_examples=40, deadline=None)
def test_distances_agree_with_scipy(values: np.ndarray) -> None:
    found = np.concatenate([block for _, block in distances(values[5:], values[:5])])
    # what cancels in a difference of squares is of the order of √ε
    np.testing.assert_allclose(found, cdist(values[:5].astype(float), values[5:].astype(float)), atol=1e-6)


def test_distances_of_cells_far_and_near_and_beyond_float32() -> None:
    rng = np.random.default_rng(6)
    apart = rng.normal(size=(40, 500))
    near = apart + rng.normal(0, 1e-4, size=apart.shape)  # each beside another: float32 would see 100 times as much
    for scale in (1, 1e25):
        for values, others in ((apart, None), (apart, near), (np.concatenate([apart, near]), None)):
            found = np.concatenate([block for _, block in distances(scale * values, others)])
            expected = cdist(values if others is None else others / scale, values) * scale
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_mean_of_distances_is_nearly_that_of_float64() -> None:
    values = np.random.default_rng(7).poisson(1.5, size=(200, 1000)).astype(np.float32)
    np.testing.assert_allclose(within(values, 50.0)[0, 0], pdist(values.astype(float)).mean(), rtol=1e-8)


def test_within_and_between_are_means_over_pairs() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 5))
    parts = rng.random((3, 12)) < 0.5
    full, sigma = cdist(values, values), 1.7
    for i, matrix in enumerate((full, np.exp(-(full**2) / (2 * sigma**2)))):
        alone = [_mean_of_pairs(matrix[np.ix_(chosen, chosen)]) for part in parts for chosen in (part, ~part)]
        found = within_and_between(values, sigma, parts)[:, i]
        np.testing.assert_allclose(found[:2].T.ravel(), alone)
        np.testing.assert_allclose(found[2], [matrix[np.ix_(part, ~part)].mean() for part in parts])
        np.testing.assert_allclose(to_each(values[:4], values[4:], sigma)[i], matrix[:4, 4:].mean(axis=1))
        np.testing.assert_allclose(within(values, sigma)[i, 0], _mean_of_pairs(matrix))
    several = within(values, np.array([sigma, 0.3]))
    np.testing.assert_allclose(several[:, 1], within(values, 0.3)[:, 0])


def _mean_of_pairs(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))


def test_centred_cells_are_the_cells() -> None:
    values = np.random.default_rng(4).normal(3, 1, size=(12, 5)).astype(np.float32)
    centred = Centred.of(values)
    np.testing.assert_allclose(centred.variance, values.var(axis=0, ddof=1, dtype=np.float64), rtol=1e-12)
    np.testing.assert_array_equal(within(centred, 1.7), within(values, 1.7))
    np.testing.assert_array_equal(to_each(values[:4], centred, 1.7), to_each(values[:4], values, 1.7))
    assert pairs_of(centred) == pairs_of(values)
    assert np.isnan(Centred.of(values[:1]).variance).all()


def test_one_cell_has_no_pairs() -> None:
    assert np.isnan(within(np.ones((1, 3)), 1.0)).all()
    assert np.isnan(within_and_between(np.ones((2, 3)), 1.0, np.array([[True, False]]))[:2]).all()
    assert np.isnan(within_and_between(np.ones((2, 3)), 1.0, np.array([[True, True]]))[1:]).all()
    assert np.isnan(pairs_of(np.ones((1, 3)))).all()
    same = pairs_of(np.ones((3, 3)))
    assert np.isnan(same[0])  # no width: a kernel of it would divide by zero
    assert same[1] == 0


def test_the_median_is_that_of_all_pairs_and_of_an_even_share_of_many() -> None:
    values = np.random.default_rng(1).normal(size=(2500, 3))
    for some, tolerance in ((values[:50], 1e-9), (values, 0.01)):
        known = pdist(some)
        expected = [np.median(known), known.mean(), kernel(known, float(np.median(known))).mean()]
        np.testing.assert_allclose(pairs_of(some), expected, rtol=tolerance)


def test_blocks_change_nothing(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(2).normal(size=(30, 4))
    parts = np.random.default_rng(3).random((2, 30)) < 0.5

    def found() -> list[np.ndarray]:
        return [within_and_between(values, 1.0, parts), within(values, 1.0), to_each(values, values[:7], 1.0)]

    whole = found()
    monkeypatch.setattr(cells, "_BLOCK", 64)
    for a, b in zip(found(), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # a block in which cells are near is of float64, others not
