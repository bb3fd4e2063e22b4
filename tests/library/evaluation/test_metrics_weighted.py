import numpy as np
import pytest
from sklearn.metrics import mean_squared_error, r2_score

from trueshift.evaluation.metrics.weighted import weighted_r2, wmse
from trueshift.evaluation.pair import Pair


def pair(delta: np.ndarray, delta_hat: np.ndarray, z: np.ndarray) -> Pair:
    c_ref, c_in = np.full(delta.shape, 2.0), np.full(delta.shape, 2.5)
    order = np.tile(np.arange(delta.shape[1]), (len(delta), 1))
    return Pair.of(delta + c_ref, delta_hat + c_in, c_ref, c_in, order, z=z)


def test_weights_as_in_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    delta, z = rng.normal(size=(2, 6, 30))
    p = pair(delta, 0.6 * delta + rng.normal(size=delta.shape) / 3, z)
    for i in range(6):
        size = np.abs(z[i])
        weight = ((size - size.min()) / (size.max() - size.min())) ** 2
        assert weighted_r2(p).value[i] == pytest.approx(r2_score(p.delta[i], p.delta_hat[i], sample_weight=weight))
        assert wmse(p).value[i] == pytest.approx(mean_squared_error(p.x[i], p.x_hat[i], sample_weight=weight))


def test_genes_that_do_not_respond_do_not_count() -> None:
    delta = np.array([[3.0, 1, 0, 0]])
    z = np.array([[-9.0, 5, 1, 1]])  # weights 4/5, 1/5, 0, 0
    right = pair(delta, np.array([[3.0, 1, 50, -50]]), z)
    assert weighted_r2(right).value == pytest.approx(1)
    assert wmse(right).value == pytest.approx(0.25)  # the two sides' controls differ by 0.5
    off = pair(delta, np.array([[2.0, 1, 0, 0]]), z)
    assert weighted_r2(off).value == pytest.approx(1 - 0.8 / (0.8 * 0.4**2 + 0.2 * 1.6**2))


def test_undefined_without_test_weights_or_spread() -> None:
    rng = np.random.default_rng(1)
    delta, z = rng.normal(size=(2, 4, 5))
    z[1], z[2], delta[3] = np.nan, [2, -2, 2, 2, -2], 1.5
    p = pair(delta, rng.normal(size=delta.shape), z)
    assert weighted_r2(p).reason.tolist() == ["", "no test", "constant truth", "constant truth"]
    assert wmse(p).reason.tolist() == ["", "no test", "constant truth", ""]
