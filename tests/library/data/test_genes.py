"""Gene selection."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_screen import make_screen

from trueshift.contract import ContractError, dense
from trueshift.data.genes import select_genes
from trueshift.data.normalize import normalize
from trueshift.data.roles import fitting_cells, roles_of
from trueshift.data.splitting import make_split

ZERO_SHOT = {"type": "zero_shot_context", "folds": {"last": "c2"}}


@pytest.fixture(scope="module")
def normal() -> ad.AnnData:
    return normalize(make_screen(), {})


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
