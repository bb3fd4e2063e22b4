"""Quality control, normalisation, gene selection, regression and scaling."""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_screen import make_obs, make_screen

from trueshift.contract import ContractError, dense
from trueshift.data.canonical.features import noted
from trueshift.data.preprocess import (
    covariates,
    found_in,
    normalize,
    quality_control,
    regress_and_scale,
    select_genes,
)
from trueshift.data.qc_figure import qc_figure
from trueshift.data.roles import fitting_cells, roles_of
from trueshift.data.splitting import make_split

OPEN_QC = {"min_genes": 1, "min_cells": 1}
ZERO_SHOT = {"type": "zero_shot_context", "folds": {"last": "c2"}}


@pytest.fixture
def screen() -> ad.AnnData:
    return make_screen()


@pytest.fixture(scope="module")
def normal() -> ad.AnnData:
    return normalize(make_screen(), {})


# --- quality control ----------------------------------------------------------------------------------


def test_qc_counts_what_it_removes(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[:4, 2:] = 0  # four cells with at most two genes
    values[:, 7] = 0
    values[10:13, 7] = 5  # a gene in three cells
    screen.X = sparse.csr_matrix(values)
    kept, report = quality_control(screen, {"min_genes": 3, "min_cells": 4})
    assert report["cells"] == {
        "before": len(values),
        "after": len(values) - 4,
        "removed": {"min_genes": 4, "max_mito": 0},
    }
    assert report["genes"] == {"before": 60, "after": 59, "removed": {"min_cells": 1}, "not_genes": {}}
    assert kept.shape == (len(values) - 4, 59)
    assert "G7" not in kept.var_names
    assert set(screen.obs_names[:4]).isdisjoint(kept.obs_names)
    assert json.loads(json.dumps(report)) == report


def test_qc_says_what_import_left_out_as_no_genes(screen: ad.AnnData) -> None:
    screen.uns["trueshift"].update(noted({"CRISPR Guide Capture": 5, "a/b": 2}))
    report = quality_control(screen, OPEN_QC)[1]
    assert report["genes"]["not_genes"] == {"CRISPR Guide Capture": 5, "a/b": 2}
    assert any("5 CRISPR Guide Capture, 2 a/b" in note for note in report["notes"])
    assert json.loads(json.dumps(report)) == report


def test_qc_says_where_no_batch_has_both_treated_and_controls(screen: ad.AnnData) -> None:
    def said() -> list[str]:
        return [note for note in quality_control(screen, OPEN_QC)[1]["notes"] if "every batch" in note]

    assert not said()
    screen.obs["batch"] = np.where(screen.obs["is_control"], "a", "b")
    assert len(said()) == 1
    screen.obs.loc[screen.obs_names[screen.obs["is_control"]][0], "batch"] = "b"
    assert not said()


def test_qc_equals_scanpy_filters(screen: ad.AnnData) -> None:
    import scanpy as sc

    found = dense(screen.X) > 0
    low, few = int(np.quantile(found.sum(axis=1), 0.2)), int(np.quantile(found.sum(axis=0), 0.4))
    reference = screen.copy()
    sc.pp.filter_cells(reference, min_genes=low)
    sc.pp.filter_genes(reference, min_cells=few)
    kept, report = quality_control(screen, {"min_genes": low, "min_cells": few, "confirm_loss": True})
    assert report["cells"]["removed"]["min_genes"] > 0 and report["genes"]["removed"]["min_cells"] > 0
    assert list(kept.obs_names) == list(reference.obs_names)
    assert list(kept.var_names) == list(reference.var_names)
    np.testing.assert_array_equal(dense(kept.X), dense(reference.X))


def test_qc_mitochondrial_share(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[:5] = 1
    values[:5, -1] = 200  # MT-B: 201 of 259 counts with MT-A
    screen.X = sparse.csr_matrix(values)
    kept, report = quality_control(screen, {**OPEN_QC, "max_mito": 0.75})
    assert report["cells"]["removed"] == {"min_genes": 0, "max_mito": 5}
    assert set(screen.obs_names[:5]).isdisjoint(kept.obs_names)
    with pytest.raises(ContractError, match=r"write 0\.2 for 20%"):
        quality_control(screen, {**OPEN_QC, "max_mito": 20})
    with pytest.raises(ContractError, match="mito_prefix 'mt:'"):
        quality_control(screen, {**OPEN_QC, "max_mito": 0.5, "mito_prefix": "mt:"})


def test_qc_skips_count_filters_for_other_kinds_and_says_so() -> None:
    screen = make_screen(kind="lognorm")
    kept, report = quality_control(screen, {**OPEN_QC, "min_cells": 150, "confirm_loss": True, "max_mito": 1e-9})
    assert kept.n_obs == screen.n_obs
    assert kept.n_vars < screen.n_vars
    assert any("max_mito skipped" in note for note in report["notes"])


def test_qc_refuses_large_losses_unless_confirmed(screen: ad.AnnData) -> None:
    screen = screen[:, :40].copy()
    with pytest.raises(ContractError, match=r"cells \(100%\).*fewer than min_genes: 200 genes; none is left"):
        quality_control(screen, {})
    tight = {"min_genes": 1, "min_cells": 300}
    with pytest.raises(ContractError, match=r"of 40 genes .*fewer than min_cells: 300.*confirm_loss: true"):
        quality_control(screen, tight)
    kept, _ = quality_control(screen, {**tight, "confirm_loss": True})
    assert 0 < kept.n_vars < 28


def test_qc_names_the_context_that_loses_its_controls(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[((screen.obs["context"] == "c1") & screen.obs["is_control"]).to_numpy()] = 0
    screen.X = sparse.csr_matrix(values)
    with pytest.raises(ContractError, match="context c1 loses all its 18 control cells"):
        quality_control(screen, OPEN_QC)


def test_qc_reports_vanished_conditions(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[((screen.obs["context"] == "c1") & (screen.obs["perturbation"] == "G4")).to_numpy()] = 0
    screen.X = sparse.csr_matrix(values)
    _, report = quality_control(screen, OPEN_QC)
    assert report["vanished_conditions"] == [{"context": "c1", "perturbation": "G4", "dose": "1"}]
    row = next(r for r in report["conditions"] if r["context"] == "c1" and r["perturbation"] == "G4")
    assert (row["before"], row["after"]) == (12, 0)


def test_qc_names_the_nearest_setting(screen: ad.AnnData) -> None:
    with pytest.raises(ContractError, match="qc: no setting min_gene; did you mean min_genes"):
        quality_control(screen, {"min_gene": 3})


@pytest.mark.parametrize("kind", ["counts", "lognorm"])
def test_qc_figure_is_a_page(kind: str, tmp_path: Path) -> None:
    before = make_screen(kind=kind)
    _, report = quality_control(before, {**OPEN_QC, "min_cells": 20})
    qc_figure(found_in(before, "MT-"), report, tmp_path / "qc.png")
    from matplotlib.image import imread

    picture = imread(tmp_path / "qc.png")
    assert picture.shape[0] > 600 and picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["qc.png"]


# --- normalisation ------------------------------------------------------------------------------------


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


# --- genes --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flavor", ["seurat_v3", "seurat"])
@pytest.mark.parametrize("batch_aware", [False, True])
def test_genes_equal_scanpy_on_the_training_cells(normal: ad.AnnData, flavor: str, batch_aware: bool) -> None:
    import scanpy as sc

    split = make_split(normal.obs, ZERO_SHOT, "last")
    train = normal[fitting_cells(roles_of(split, normal.obs), normal.obs)].copy()
    if flavor == "seurat_v3":
        train.X = train.layers["counts"]
    sc.pp.highly_variable_genes(train, n_top_genes=20, flavor=flavor, batch_key="batch" if batch_aware else None)
    genes = select_genes(normal, split, {"n_top": 20, "flavor": flavor, "batch_aware": batch_aware})
    assert genes["gene"].tolist() == normal.var_names.tolist()
    np.testing.assert_array_equal(genes["reason"] == "hvg", train.var["highly_variable"])
    column = "variances_norm" if flavor == "seurat_v3" else "dispersions_norm"
    np.testing.assert_allclose(genes["score"], train.var[column].fillna(0), rtol=1e-5)
    assert set(genes["flavor"]) == {flavor}


def test_measured_targets_are_added(normal: ad.AnnData) -> None:
    genes = select_genes(normal, make_split(normal.obs, ZERO_SHOT, "last"), {"n_top": 5}).set_index("gene")
    targets = {f"G{i}" for i in range(7)}
    assert genes.loc[sorted(targets), "selected"].all()
    assert set(genes.loc[genes["reason"] == "target"].index) == targets - set(genes.index[genes["reason"] == "hvg"])
    assert (genes["reason"] == "hvg").sum() == 5
    assert (genes.loc[~genes["selected"], "reason"] == "").all()


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000), fold=st.sampled_from(["c0", "c1", "c2"]))
def test_genes_do_not_depend_on_cells_outside_training(seed: int, fold: str) -> None:
    normal = normalize(make_screen(), {})
    split = make_split(normal.obs, {"type": "zero_shot_context", "folds": {"f": fold}}, "f")
    other = normal.copy()
    unseen = np.flatnonzero((normal.obs["context"] == fold).to_numpy())  # its input controls are not looked at either
    noise = np.random.default_rng(seed).poisson(50, (len(unseen), normal.n_vars))
    for matrix in (other.X, other.layers["counts"]):
        changed = matrix.tolil()
        changed[unseen] = noise
        matrix_new = changed.tocsr().astype(np.float32)
        if matrix is other.X:
            other.X = matrix_new
        else:
            other.layers["counts"] = matrix_new
    for flavor in ("seurat", "seurat_v3"):
        chosen = {"n_top": 15, "flavor": flavor}
        pd.testing.assert_frame_equal(select_genes(normal, split, chosen), select_genes(other, split, chosen))


def test_every_gene_is_kept_where_there_are_no_more(normal: ad.AnnData) -> None:
    split = make_split(normal.obs, ZERO_SHOT, "last")
    for chosen in ({"n_top": 60}, {"n_top": 5, "flavor": "all"}):
        genes = select_genes(normal, split, chosen)
        assert genes["selected"].all() and set(genes["reason"]) == {"all"}
    train = dense(normal.X)[fitting_cells(roles_of(split, normal.obs), normal.obs)]
    np.testing.assert_allclose(genes["mean"], train.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(genes["score"], train.var(axis=0), rtol=1e-4)


def test_a_selection_by_the_source_is_named() -> None:
    screen = make_screen(kind="lognorm")
    screen.uns["trueshift"]["preselected_genes"] = True
    split = make_split(screen.obs, ZERO_SHOT, "last")
    genes = select_genes(screen, split, {})
    assert genes["selected"].all() and set(genes["reason"]) == {"preselected"}
    assert genes["flavor"].iloc[0].startswith("selection not ours")
    fewer = select_genes(screen, split, {"n_top": 10})
    assert (fewer["reason"] == "hvg").sum() == 10
    assert fewer["flavor"].iloc[0] == (
        "seurat on log data: there are no counts for seurat_v3, among genes that the source preselected"
    )


def test_constant_genes_are_no_choice(normal: ad.AnnData) -> None:
    flat = normal.copy()
    flat.X = sparse.csr_matrix(np.ones(normal.shape, dtype=np.float32))
    flat.layers["counts"] = flat.X.copy()
    split = make_split(flat.obs, ZERO_SHOT, "last")
    for flavor in ("seurat", "seurat_v3"):
        with pytest.raises(ContractError, match="flavor"):
            select_genes(flat, split, {"n_top": 5, "flavor": flavor})


def test_gene_errors(normal: ad.AnnData) -> None:
    split = make_split(normal.obs, ZERO_SHOT, "last")
    with pytest.raises(ContractError, match="flavor is 'cell_ranger'"):
        select_genes(normal, split, {"flavor": "cell_ranger"})
    with pytest.raises(ContractError, match="n_top is 0"):
        select_genes(normal, split, {"n_top": 0})


def test_light_stages_do_not_import_scanpy() -> None:
    code = (
        "import sys;"
        "import trueshift.data.preprocess, trueshift.data.splitting, trueshift.data.partition, trueshift.data.pairing;"
        "print([m for m in ('scanpy', 'torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- regression and scaling ---------------------------------------------------------------------------


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
