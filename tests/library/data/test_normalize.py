"""Normalisation."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from small_screen import make_obs, make_screen

from trueshift.contract import ContractError, dense
from trueshift.data.normalize import normalize


@pytest.fixture
def screen() -> ad.AnnData:
    return make_screen()


@pytest.mark.slow
@pytest.mark.parametrize("target", [10_000, 500, "median"])
def test_normalize_equals_scanpy(screen: ad.AnnData, target: float | str) -> None:
    import scanpy as sc

    reference = screen.copy()
    sc.pp.normalize_total(reference, target_sum=None if target == "median" else target)
    sc.pp.log1p(reference)
    result = normalize(screen, {"target_sum": target})
    np.testing.assert_allclose(dense(result.X), dense(reference.X), rtol=1e-5)
    assert sparse.issparse(result.X) and result.X.format == "csr" and result.X.dtype == np.float32
    np.testing.assert_array_equal(dense(result.layers["counts"]), dense(screen.X))


def test_normalize_by_size_factor() -> None:
    obs = make_obs(contexts=1, batches=1, cells=1, controls=2, perturbations=("G0",))
    obs["size_factor"] = [100.0, 200.0, 400.0]
    screen = make_screen(obs, genes=4)
    result = normalize(screen, {"target_sum": "median", "size_factor": True})
    expected = np.log1p(dense(screen.X) * np.array([[2.0], [1.0], [0.5]]))
    np.testing.assert_allclose(dense(result.X), expected, rtol=1e-6)
    assert "200 (the median) per cell by obs size_factor" in result.uns["trueshift"]["normalization"]
    screen.obs["size_factor"] = [100.0, np.nan, 400.0]
    with pytest.raises(ContractError, match=f"1 cells have no positive total.*{screen.obs_names[1]}"):
        normalize(screen, {"size_factor": True})
    del screen.obs["size_factor"]
    with pytest.raises(ContractError, match="no column size_factor"):
        normalize(screen, {"size_factor": True})


def test_normalize_names_empty_cells(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[[3, 8]] = 0
    screen.X = sparse.csr_matrix(values)
    with pytest.raises(ContractError, match=f"2 cells have no positive total .*first {screen.obs_names[3]}"):
        normalize(screen, {})


def test_normalize_refuses_odd_targets(screen: ad.AnnData) -> None:
    with pytest.raises(ContractError, match="target_sum"):
        normalize(screen, {"target_sum": "mean"})


def test_other_kinds_pass_through_and_say_so() -> None:
    screen = make_screen(kind="lognorm")
    result = normalize(screen, {})
    np.testing.assert_array_equal(dense(result.X), dense(screen.X))
    assert "counts" not in result.layers
    assert result.uns["trueshift"]["normalization"].startswith("passed through: kind lognorm")


def test_input_is_left_alone(screen: ad.AnnData) -> None:
    before = dense(screen.X).copy()
    normalize(screen, {})
    np.testing.assert_array_equal(dense(screen.X), before)
    assert "normalization" not in screen.uns["trueshift"]
