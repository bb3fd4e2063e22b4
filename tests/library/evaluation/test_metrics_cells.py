import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from trueshift.evaluation.metrics.cells import e_distance, mmd2
from trueshift.evaluation.pair import CellTerms, Pair


def pair(true: list[np.ndarray], predicted: list[np.ndarray]) -> Pair:
    """Terms from all pairs of cells; the kernel is that of bandwidth 1."""

    def terms(function: str) -> CellTerms:
        def mean(d: np.ndarray) -> float:
            if not d.size:
                return np.nan
            return float((d if function == "distance" else np.exp(-(d**2) / 2)).mean())

        both = [(cdist(a, b), pdist(a), pdist(b)) for a, b in zip(true, predicted, strict=True)]
        return CellTerms(*np.array([[mean(d) for d in row] for row in both]).T)

    x, x_hat = (np.stack([cells.mean(axis=0) for cells in side]) for side in (true, predicted))
    order = np.tile(np.arange(x.shape[1]), (len(x), 1))
    return Pair.of(x, x_hat, x, x_hat, order, distance=terms("distance"), kernel=terms("kernel"))


def test_points_on_a_line_by_hand() -> None:
    p = pair([np.array([[0.0], [1.0]])], [np.array([[3.0], [5.0]])])
    assert e_distance(p).value == pytest.approx(2 * (3 + 5 + 2 + 4) / 4 - 1 - 2)
    k = np.exp(-(np.array([1.0, 2, 3, 5, 2, 4]) ** 2) / 2)
    assert mmd2(p).value == pytest.approx(k[0] + k[1] - 2 * k[2:].mean())


def test_unbiased_zero_for_one_distribution_and_positive_for_two() -> None:
    rng = np.random.default_rng(0)
    true = [rng.normal(size=(12, 3)) for _ in range(400)]
    same, moved = ([rng.normal(size=(7, 3)) + shift for _ in range(400)] for shift in (0, 2))
    for metric in (e_distance, mmd2):
        null = metric(pair(true, same)).value
        assert abs(null.mean()) < 4 * null.std() / 20
        assert (null < 0).any()
        assert (metric(pair(true, moved)).value > np.quantile(null, 0.95)).mean() > 0.9


def test_single_cells_have_no_spread() -> None:
    two, one = np.eye(2), np.ones((1, 2))
    for metric in (e_distance, mmd2):
        assert metric(pair([two, one, two], [two, two, one])).reason.tolist() == ["", *["fewer than 2 cells"] * 2]
