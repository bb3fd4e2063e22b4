import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from trueshift.evaluation.metrics import legacy as module
from trueshift.evaluation.metrics.legacy import legacy_pearson, legacy_r2_topk
from trueshift.evaluation.metrics.raw import pearson2_mean_topk, pearson2_var_topk, r2_mean_topk, r2_var_topk
from trueshift.evaluation.pair import Pair

N_GENES = 30


@pytest.fixture
def noisy() -> Pair:
    """Four conditions without controls: the forms on raw expression need none."""
    rng = np.random.default_rng(0)
    x = rng.gamma(1, 1, size=(4, N_GENES))
    x_hat, variance, variance_hat = x + rng.normal(size=x.shape) / 5, x * 2, x * 2 + rng.random(x.shape)
    none = np.full(x.shape, np.nan)
    order = np.argsort(rng.random(x.shape), axis=1)
    return Pair.of(x, x_hat, none, none, order, variance=variance, variance_hat=variance_hat)


@pytest.mark.parametrize("k", [6, N_GENES])
def test_raw_forms_agree_with_scikit_learn_and_scipy(noisy: Pair, k: int) -> None:
    assert noisy.variance is not None and noisy.variance_hat is not None
    for i, genes in enumerate(noisy.order[:, :k]):
        mean, var = [
            (a[i, genes], b[i, genes]) for a, b in ((noisy.x, noisy.x_hat), (noisy.variance, noisy.variance_hat))
        ]
        expected = [r2_score(*mean), stats.pearsonr(*mean)[0] ** 2, r2_score(*var), stats.pearsonr(*var)[0] ** 2]
        found = [f(noisy, k).value[i] for f in (r2_mean_topk, pearson2_mean_topk, r2_var_topk, pearson2_var_topk)]
        np.testing.assert_allclose(found, expected)


def test_no_effect_scores_near_one_on_raw_expression() -> None:
    rng = np.random.default_rng(1)
    level = rng.gamma(1, 1, size=(5, 2000))
    delta = rng.normal(size=level.shape) / 5
    p = Pair.of(level + delta, level, level, level, np.argsort(-np.abs(delta), axis=1))
    assert (r2_mean_topk(p, 2000).value > 0.9).all()
    assert (pearson2_mean_topk(p, 2000).value > 0.9).all()


def test_constants_and_single_cells() -> None:
    rng = np.random.default_rng(2)
    x, flat = rng.random((3, 5)), np.full((3, 5), 0.7)
    order = np.tile(np.arange(5), (3, 1))
    variance = np.stack([x[0], np.full(5, np.nan), flat[0]])
    p = Pair.of(x, flat, x, x, order, variance=variance, variance_hat=x)
    constant = pearson2_mean_topk(p, 5)
    assert (constant.value.tolist(), constant.constant.all()) == ([0, 0, 0], True)
    assert r2_mean_topk(Pair.of(flat, x, x, x, order), 5).reason.tolist() == ["constant truth"] * 3
    for f in (r2_var_topk, pearson2_var_topk):
        assert f(p, 5).reason.tolist() == ["", "fewer than 2 cells", "constant truth"]
    one_predicted = Pair.of(x, x, x, x, order, variance=x, variance_hat=variance)
    found = pearson2_var_topk(one_predicted, 5)
    assert found.reason.tolist() == ["", "fewer than 2 cells", ""]
    assert found.constant.tolist() == [False, False, True]


# --- the legacy form ----------------------------------------------------------------------------------


def legacy_pair(cells: list[np.ndarray], x_hat: np.ndarray, control: np.ndarray) -> Pair:
    x = np.stack([c.mean(axis=0) for c in cells])
    order = np.tile(np.arange(x.shape[1]), (len(x), 1))
    return Pair.of(x, x_hat, x, x, order, samples=lambda i: cells[i], shared_control=control)


def naive_r(cells: np.ndarray, x_hat: np.ndarray, control: np.ndarray) -> float:
    return float(np.mean([stats.pearsonr(cell - control, x_hat - control)[0] for cell in cells.astype(float)]))


def naive(cells: np.ndarray, x_hat: np.ndarray, control: np.ndarray, k: int) -> float:
    r2 = []
    for cell in cells.astype(np.float32):
        top = np.argsort(-np.abs(cell - control.astype(np.float32)), kind="stable")[:k]
        r2.append(stats.pearsonr((cell - control)[top], (x_hat - control)[top])[0] ** 2)
    return float(np.mean(r2))


@pytest.mark.parametrize("k", [4, 10, N_GENES])
@pytest.mark.parametrize("block", [7, 10_000])
def test_legacy_form_sample_by_sample(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(3)
    control = rng.gamma(1, 1, size=(3, N_GENES)) * (rng.random(N_GENES) < 0.6)  # the zeros make ties
    cells = [np.log1p(rng.poisson(1.5, size=(n, N_GENES))).astype(np.float32) for n in (1, 20, 33)]
    x_hat = rng.gamma(1, 1, size=(3, N_GENES))
    found = legacy_r2_topk(legacy_pair(cells, x_hat, control), k)
    expected = [naive(cells[i], x_hat[i], control[i], k) for i in range(3)]
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)
    assert not found.constant.any()
    r = legacy_pearson(legacy_pair(cells, x_hat, control))
    np.testing.assert_allclose(r.value, [naive_r(cells[i], x_hat[i], control[i]) for i in range(3)], rtol=1e-6)


def test_legacy_pearson_sees_the_sign_that_its_square_does_not() -> None:
    rng = np.random.default_rng(6)
    control, effect = rng.random((1, 30)), rng.normal(size=(1, 30))
    cells = [np.tile(control + effect, (4, 1))]
    for sign in (1, -1):
        p = legacy_pair(cells, control + sign * effect, control)
        assert legacy_pearson(p).value == pytest.approx(sign, abs=1e-6)
        assert legacy_r2_topk(p, 30).value == pytest.approx(1, abs=1e-6)


def test_legacy_form_rewards_a_constant_where_nothing_happens() -> None:
    """Truth and prediction are the same level for all conditions; the error of one control mean is all there is."""
    rng = np.random.default_rng(4)
    level = rng.gamma(2, 1, size=200)
    control = level + 0.1 * rng.normal(size=200)
    profiles = [level[None] + 0.01 * rng.normal(size=(5, 200))]
    p = legacy_pair(profiles, level[None], control[None])
    assert legacy_r2_topk(p, 20).value > 0.95
    assert legacy_pearson(p).value > 0.95


def test_legacy_form_scores_constants_and_leaves_out_flat_cells() -> None:
    rng = np.random.default_rng(5)
    control = rng.random((4, 8))
    cells = [rng.random((3, 8)) + 2 for _ in range(4)]
    flat = control[1] + 3.0
    cells[1] = np.stack([flat, cells[1][0], flat])  # one cell is left
    cells[2] = np.stack([control[2] + 3.0] * 3)  # none is
    x_hat = np.stack([control[0] + 0.5, rng.random(8), rng.random(8), rng.random(8)])
    control[3, 2] = np.nan
    found = legacy_r2_topk(legacy_pair(cells, x_hat, control), 8)
    assert found.reason.tolist() == ["", "", "constant truth", "too few controls"]
    assert (found.value[0], found.constant.tolist()) == (0, [True, False, False, False])
    assert found.value[1] == pytest.approx(naive(cells[1][1:2], x_hat[1], control[1], 8), rel=1e-6)
    r = legacy_pearson(legacy_pair(cells, x_hat, control))
    assert (r.reason.tolist(), r.constant.tolist()) == (found.reason.tolist(), found.constant.tolist())
    assert r.value[:2] == pytest.approx([0, naive_r(cells[1][1:2], x_hat[1], control[1])], rel=1e-6)
