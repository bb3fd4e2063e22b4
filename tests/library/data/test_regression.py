"""Regression of covariates and scaling."""

import anndata as ad
import numpy as np
import pytest
from small_screen import make_screen

from trueshift.contract import ContractError, dense
from trueshift.data.normalize import normalize
from trueshift.data.regression import covariates, regress_and_scale


@pytest.fixture(scope="module")
def normal() -> ad.AnnData:
    return normalize(make_screen(), {})


@pytest.fixture
def fit(normal: ad.AnnData) -> np.ndarray:
    return np.arange(normal.n_obs) % 3 != 0


@pytest.mark.slow
def test_regression_and_scaling_equal_scanpy_on_the_fitting_cells(normal: ad.AnnData, fit: np.ndarray) -> None:
    import scanpy as sc

    reference = normal[fit].copy()
    reference.X = dense(reference.X).astype(np.float64)
    reference.obs["total_counts"] = np.asarray(reference.layers["counts"].sum(axis=1)).ravel()
    design = covariates(normal, ["total_counts"], fit)
    sc.pp.regress_out(reference, ["total_counts"])
    np.testing.assert_allclose(regress_and_scale(normal.X, design, fit, None)[fit], reference.X, atol=1e-4)
    sc.pp.scale(reference, max_value=1.5)
    scaled = regress_and_scale(normal.X, design, fit, {"max_value": 1.5})
    np.testing.assert_allclose(scaled[fit], reference.X, atol=1e-4)
    assert np.abs(scaled).max() <= 1.5


def test_regression_on_batches_and_numbers_equals_sklearn(normal: ad.AnnData, fit: np.ndarray) -> None:
    from sklearn.linear_model import LinearRegression

    genes = (dense(normal.layers["counts"]) > 0).sum(axis=1)
    columns = np.column_stack([normal.obs["batch"] == "b0", genes])
    values = dense(normal.X)
    expected = values - LinearRegression().fit(columns[fit], values[fit]).predict(columns)
    result = regress_and_scale(normal.X, covariates(normal, ["batch", "n_genes"], fit), fit, None)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_regression_removes_a_known_slope() -> None:
    design = np.column_stack([np.ones(6), np.arange(6.0)])
    fit = np.array([1, 1, 1, 1, 0, 0], dtype=bool)
    values = 2 + 3 * np.arange(6.0)[:, None]
    values[5] += 7
    np.testing.assert_allclose(regress_and_scale(values, design, fit, None).ravel(), [0, 0, 0, 0, 0, 7], atol=1e-5)


def test_scaling_is_fitted_on_the_fitting_cells_only(normal: ad.AnnData, fit: np.ndarray) -> None:
    changed = dense(normal.X).copy()
    changed[~fit] += 100
    design = covariates(normal, ["n_genes"], fit)
    one = regress_and_scale(normal.X, design, fit, {"max_value": None})
    two = regress_and_scale(changed, design, fit, {"max_value": None})
    np.testing.assert_array_equal(one[fit], two[fit])
    np.testing.assert_allclose(one[fit].std(axis=0, ddof=1), 1, rtol=1e-4)


def test_constant_genes_scale_to_zero() -> None:
    fit = np.array([True, True, True, False])
    scaled = regress_and_scale(np.array([[4.0], [4.0], [4.0], [6.0]]), None, fit, {"max_value": 10})
    np.testing.assert_array_equal(scaled.ravel(), [0, 0, 0, 2])


def test_covariate_errors(normal: ad.AnnData, fit: np.ndarray) -> None:
    with pytest.raises(ContractError, match="perturbation would remove the effect"):
        covariates(normal, ["perturbation"], fit)
    with pytest.raises(ContractError, match="no column cell_cycle; use total_counts"):
        covariates(normal, ["cell_cycle"], fit)
    with pytest.raises(ContractError, match="context c1 has no training cells"):
        covariates(normal, ["context"], (normal.obs["context"] != "c1").to_numpy())
    bare = normal.copy()
    del bare.layers["counts"]
    with pytest.raises(ContractError, match="total_counts needs counts"):
        covariates(bare, ["total_counts"], fit)
    bare.obs["size_factor"] = np.nan
    with pytest.raises(ContractError, match="size_factor has missing values"):
        covariates(bare, ["size_factor"], fit)
    with pytest.raises(ContractError, match="scale: no setting max; did you mean max_value"):
        regress_and_scale(normal.X, None, fit, {"max": 3})
