import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from trueshift.evaluation.wilcoxon import SortedCells, adjust, rank_sum, wilcoxon


@given(
    cells=hnp.arrays(np.float32, (7, 3), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])),
    controls=hnp.arrays(np.float32, (9, 3), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_scipy_under_ties(cells: np.ndarray, controls: np.ndarray) -> None:
    p = wilcoxon([cells], SortedCells.of(controls))[1][0]
    exact = cells.astype(np.float64), controls.astype(np.float64)  # SciPy computes in the precision it is given
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = stats.mannwhitneyu(*exact, axis=0, method="asymptotic", use_continuity=False).pvalue
    np.testing.assert_allclose(p, np.nan_to_num(expected, nan=1.0), atol=1e-12)


@pytest.mark.slow
def test_agrees_with_scanpy_tie_corrected() -> None:
    sc = pytest.importorskip("scanpy")
    rng = np.random.default_rng(1)
    rate = np.linspace(0.1, 4, 25)
    cells, controls = rng.poisson(rate * 1.3, (40, 25)), rng.poisson(rate, (70, 25))
    data = ad.AnnData(
        np.log1p(np.concatenate([cells, controls])).astype(np.float32),
        obs=pd.DataFrame({"group": ["t"] * 40 + ["c"] * 70}, index=[f"c{i}" for i in range(110)], dtype="category"),
        var=pd.DataFrame(index=[f"g{i}" for i in range(25)]),
    )
    sc.tl.rank_genes_groups(data, "group", groups=["t"], reference="c", method="wilcoxon", tie_correct=True)
    expected = sc.get.rank_genes_groups_df(data, "t").set_index("names").loc[data.var_names]
    (z,), (p,) = wilcoxon([data.X[:40]], SortedCells.of(data.X[40:]))
    np.testing.assert_allclose(p, expected["pvals"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(z, expected["scores"], rtol=1e-5)
    np.testing.assert_allclose(adjust(p), expected["pvals_adj"], rtol=1e-6, atol=1e-6)


def test_a_constant_gene_has_p_one_and_no_statistic() -> None:
    cells, controls = np.full((4, 2), 3.0, np.float32), np.full((6, 2), 3.0, np.float32)
    controls[0, 1] = 0
    (z,), (p,) = wilcoxon([cells], SortedCells.of(controls))
    assert (z[0], p[0]) == (0, 1)
    assert z[1] > 0
    assert p[1] < 1


def test_sign_and_symmetry() -> None:
    rng = np.random.default_rng(2)
    low, high = rng.normal(0, 1, (30, 1)), rng.normal(2, 1, (20, 1))
    (z,), (p,) = wilcoxon([high], SortedCells.of(low))
    (back,), (p_back,) = wilcoxon([low], SortedCells.of(high))
    assert z[0] > 4
    np.testing.assert_allclose((back, p_back), (-z, p))


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_adjust_agrees_with_scipy(p: np.ndarray) -> None:
    np.testing.assert_allclose(adjust(p), stats.false_discovery_control(p), atol=1e-15)
    np.testing.assert_array_equal(adjust(np.stack([p, p[::-1]]))[1], adjust(p[::-1]))


def test_parts_are_tested_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    cells, controls = rng.poisson(1, (25, 7)).astype(np.float32), rng.poisson(1, (40, 7)).astype(np.float32)
    cells[:, 0] = rng.random(25)  # without ties
    parts = rng.random((6, 25)) < 0.5
    ordered = SortedCells.of(controls)
    z, p = rank_sum(cells, ordered, parts)
    alone = [cells[part] for part in parts]
    np.testing.assert_allclose((z, p), wilcoxon(alone, ordered), rtol=1e-9)
    monkeypatch.setattr("trueshift.evaluation.wilcoxon._BLOCK", 50)  # few genes at a time
    np.testing.assert_allclose(rank_sum(cells, ordered, parts), (z, p))
    np.testing.assert_allclose(wilcoxon(alone, ordered), (z, p), rtol=1e-9)
    nobody = np.zeros((1, 25), dtype=bool)
    assert np.isnan(rank_sum(cells, ordered, nobody)).all()


def test_many_cells_agree_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    shape = rng.gamma(2, 1, (1500, 5)).astype(np.float32)
    shape[rng.random(shape.shape) < 0.5] = 0
    shape[:, 1] = rng.poisson(1, 1500)  # few values
    shape[:, 2] = 0
    controls, conditions = shape[:300], np.split(shape[300:].copy(), [1, 500, 900])
    conditions[1][:50, 0] = -1  # below all controls, and equal
    conditions[2][:, 2] = 7  # where all controls are equal
    conditions[3][:, 3] = 0
    ordered = SortedCells.of(controls)
    found = wilcoxon(conditions, ordered)
    for i, cells in enumerate(conditions):
        z, p = rank_sum(cells, ordered, np.ones((1, len(cells)), dtype=bool))
        np.testing.assert_allclose((found[0][i], found[1][i]), (z[0], p[0]), rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("trueshift.evaluation.places._FEW", 10**9)  # searched, one by one
    np.testing.assert_array_equal(wilcoxon(conditions, ordered), found)
