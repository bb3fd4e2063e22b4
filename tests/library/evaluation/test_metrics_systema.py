import numpy as np
import pytest
from scipy.stats import pearsonr

from trueshift.evaluation.metrics.systema import systema_pearson, systema_pearson_delta
from trueshift.evaluation.pair import Pair


def pair(x: np.ndarray, x_hat: np.ndarray, centre: np.ndarray, mean_delta: np.ndarray) -> Pair:
    shape = x.shape
    c_ref, c_in = np.full(shape, 1.0), np.full(shape, 1.3)
    order = np.tile(np.arange(shape[1]), (shape[0], 1))
    centre, mean_delta = np.broadcast_to(centre, shape), np.broadcast_to(mean_delta, shape)
    return Pair.of(x, x_hat, c_ref, c_in, order, centre=centre, mean_delta=mean_delta)


def test_correlation_of_what_is_beyond_the_mean_training_effect() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=40)
    x = 3 + shared + 0.2 * rng.normal(size=(5, 40))
    p = pair(x, x + 0.2 * rng.normal(size=(5, 40)), 3 + shared, shared)
    for i in range(5):
        raw = pearsonr(p.x[i] - (3 + shared), p.x_hat[i] - (3 + shared)).statistic
        on_effects = pearsonr(p.delta[i] - shared, p.delta_hat[i] - shared).statistic
        assert systema_pearson(p).value[i] == pytest.approx(raw)
        assert systema_pearson_delta(p).value[i] == pytest.approx(on_effects)
        assert raw < pearsonr(p.delta[i], p.delta_hat[i]).statistic - 0.1  # the shared effect is easy


@pytest.mark.parametrize("wobble", [0, 1e-7])
def test_the_mean_training_effect_itself_scores_zero(wobble: float) -> None:
    rng = np.random.default_rng(1)
    centre, effect = 3 + rng.normal(size=20), rng.normal(size=20)
    x = 3 + rng.normal(size=(2, 20))
    rounding = 1 + wobble * rng.normal(size=(2, 20))
    for found in (
        systema_pearson(pair(x, centre * rounding, centre, effect)),
        systema_pearson_delta(pair(x, (1.3 + effect) * rounding, centre, effect)),
        systema_pearson(pair(x, (centre + 2) * rounding, centre, effect)),
    ):
        assert (found.value.tolist(), found.constant.tolist()) == ([0, 0], [True, True])


def test_undefined_without_training_effect_or_difference_from_it() -> None:
    rng = np.random.default_rng(2)
    x, centre = 3 + rng.normal(size=(3, 10)), 3 + rng.normal(size=(3, 10))
    centre[1], x[2] = np.nan, centre[2] + 1
    p = pair(x, 3 + rng.normal(size=(3, 10)), centre, centre - 1.0)
    for metric in (systema_pearson, systema_pearson_delta):
        assert metric(p).reason.tolist() == ["", "no training effect", "constant truth"]
