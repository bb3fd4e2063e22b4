"""The cut into train, query and truth, and that the truth stays in its file."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_screen import make_screen

from trueshift.contract import ContractError, asked, check_canonical, dense
from trueshift.data.genes import select_genes
from trueshift.data.normalize import normalize
from trueshift.data.partition import partition, read_genes
from trueshift.data.splitting import make_split

SPLITS: dict[str, tuple[dict[str, Any], str]] = {
    "zero_shot": ({"type": "zero_shot_context", "folds": {"a": "c1"}}, "a"),
    "kfold": ({"type": "kfold_cells", "k": 3}, "1"),
    "combination": ({"type": "unseen_combination", "k": 3}, "2"),
}
NORMAL = normalize(make_screen(), {})


def genes_of(adata: ad.AnnData, number: int = 40) -> pd.DataFrame:
    return pd.DataFrame({"gene": adata.var_names, "selected": np.arange(adata.n_vars) % 60 < number})


def cut(adata: ad.AnnData, name: str, **extra: Any) -> tuple[pd.DataFrame, ad.AnnData, ad.AnnData, ad.AnnData]:
    chosen, fold = SPLITS[name]
    split = make_split(adata.obs, chosen, fold)
    return (split, *partition(adata, split, genes_of(adata), {"split": chosen, **extra}))


@pytest.mark.parametrize("name", SPLITS)
def test_each_role_goes_where_it_belongs(name: str) -> None:
    split, train, query, truth = cut(NORMAL, name)
    cells = {role: set(split.loc[split["role"] == role, "cell"]) for role in split["role"].unique()}
    reference, given_controls = cells["control_reference"], cells["control_input"]
    assert set(train.obs_names) == cells["train"] | cells["val"] | given_controls
    assert set(query.obs_names) == given_controls
    assert set(truth.obs_names) == cells["test"] | reference | given_controls
    for part in (train, query, truth):
        roles = split.set_index("cell")["role"].loc[part.obs_names]
        assert (part.obs["role"].astype(str) == roles).all()
        assert part.X.format == "csr" and part.X.dtype == np.float32
        np.testing.assert_array_equal(dense(part.X), dense(NORMAL[part.obs_names, :40].X))
    np.testing.assert_array_equal(dense(train.layers["counts"]), dense(NORMAL[train.obs_names, :40].layers["counts"]))
    check_canonical(train, "train.h5ad")
    assert set(truth.layers) == set()


def test_uns_of_each_part() -> None:
    _, train, query, truth = cut(NORMAL, "zero_shot")
    assert set(train.uns) == {"trueshift", "perturbation_features"}
    assert set(query.uns) == {"trueshift", "perturbation_features", "conditions"}
    assert set(truth.uns) == {"trueshift", "conditions"}
    assert truth.uns["trueshift"]["cluster"] == "context"
    assert "cluster" not in NORMAL.uns["trueshift"]
    table = asked(query)
    pd.testing.assert_frame_equal(table, asked(truth))
    assert len(table) == 8 and set(table["n_cells"]) == {12}
    assert list(train.var.columns) == ["gene_id"]
    assert cut(NORMAL, "combination")[3].uns["trueshift"]["cluster"] == "perturbation"


def test_structures_go_where_features_go() -> None:
    adata = NORMAL.copy()
    adata.uns["structures"] = pd.DataFrame({"smiles": ["CCO"], "scaffold": [""]}, index=["A"])
    _, train, query, truth = cut(adata, "zero_shot")
    for part in (train, query):
        pd.testing.assert_frame_equal(part.uns["structures"], adata.uns["structures"])
        assert part.uns["structures"] is not adata.uns["structures"]
    assert "structures" not in truth.uns


def test_files_survive_writing(tmp_path: Path) -> None:
    for part, name in zip(cut(NORMAL, "zero_shot")[1:], ("train", "query", "truth"), strict=True):
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        back = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        np.testing.assert_array_equal(dense(back.X), dense(part.X))
        if name != "train":
            pd.testing.assert_frame_equal(asked(back), asked(part), check_dtype=False)
        if name != "truth":
            pd.testing.assert_frame_equal(
                back.uns["perturbation_features"]["programs"], NORMAL.uns["perturbation_features"]["programs"]
            )


def fingerprint(part: ad.AnnData) -> tuple[Any, ...]:
    return (
        dense(part.X).tobytes(),
        dense(part.layers["counts"]).tobytes(),
        part.obs.to_csv(),
        part.var.to_csv(),
        {column: list(part.obs[column].cat.categories) for column in part.obs.select_dtypes("category")},
        sorted(part.uns),
        list(part.obsm),
        list(part.varm),
    )


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(sorted(SPLITS)),
    extra=st.sampled_from([{}, {"scale": {"max_value": 3}}, {"regress_out": ["batch"], "scale": {"max_value": None}}]),
)
def test_nothing_of_the_truth_reaches_train_or_query(seed: int, name: str, extra: dict[str, Any]) -> None:
    chosen, fold = SPLITS[name]
    split = make_split(NORMAL.obs, chosen, fold)
    hidden = split["role"].isin(["test", "control_reference"]).to_numpy()
    rng = np.random.default_rng(seed)
    other = NORMAL.copy()
    values, counts = dense(NORMAL.X).copy(), dense(NORMAL.layers["counts"]).copy()
    values[hidden] = rng.gamma(2, 3, (hidden.sum(), NORMAL.n_vars))
    counts[hidden] = rng.poisson(4, (hidden.sum(), NORMAL.n_vars))
    other.X, other.layers["counts"] = sparse.csr_matrix(values), sparse.csr_matrix(counts)
    # what a source may bring along, computed on all cells
    other.obs["cluster_on_all_cells"] = rng.integers(0, 9, NORMAL.n_obs)
    other.var["mean_on_all_cells"] = values.mean(axis=0)
    other.uns["true_effects"] = values[hidden]
    other.obsm["X_pca"] = values[:, :2]
    other.varm["PCs"] = rng.normal(size=(NORMAL.n_vars, 2))
    genes = genes_of(NORMAL)
    one = partition(NORMAL, split, genes, {"split": chosen, **extra})
    two = partition(other, split, genes, {"split": chosen, **extra})
    for before, after in zip(one[:2], two[:2], strict=True):
        assert fingerprint(before) == fingerprint(after)
    assert dense(one[2].X).tobytes() != dense(two[2].X).tobytes()


def test_unseen_labels_leave_no_category_in_train() -> None:
    _, train, _, truth = cut(NORMAL, "combination")
    held = set(truth.obs["perturbation"].astype(str)) - {"control"}
    assert held.isdisjoint(train.obs["perturbation"].cat.categories)


def test_scaling_is_fitted_on_training_cells() -> None:
    _, train, _, truth = cut(NORMAL, "zero_shot", scale={"max_value": 10})
    fit = (train.obs["role"] == "train").to_numpy()
    np.testing.assert_allclose(dense(train.X)[fit].mean(axis=0), 0, atol=1e-4)
    raw = cut(NORMAL, "zero_shot")
    spread = dense(raw[1].X)[fit].std(axis=0, ddof=1)
    expected = (dense(raw[3].X) - dense(raw[1].X)[fit].mean(axis=0)) / spread
    np.testing.assert_allclose(dense(truth.X), expected.clip(-10, 10), atol=1e-3)
    assert (dense(train.layers["counts"]) == dense(NORMAL[train.obs_names, :40].layers["counts"])).all()


def test_data_without_counts_or_features() -> None:
    adata = normalize(make_screen(kind="lognorm"), {})
    del adata.uns["perturbation_features"]
    _, train, query, _ = cut(adata, "kfold")
    assert not len(train.layers) and not len(query.layers)
    assert set(train.uns) == {"trueshift"}


def test_refusals() -> None:
    chosen, fold = SPLITS["zero_shot"]
    split, genes = make_split(NORMAL.obs, chosen, fold), genes_of(NORMAL)
    leaky = split.copy()
    leaky.loc[leaky.index[leaky["role"] == "test"][0], "role"] = "train"
    for bad_split, bad_genes, extra, message in (
        (leaky, genes, {"split": chosen}, "context c1 is held out"),
        (split.iloc[1:], genes, {"split": chosen}, "have no role"),
        (split, genes.iloc[1:], {"split": chosen}, "not of these data .first difference G0"),
        (split, genes.iloc[::-1], {"split": chosen}, "another order"),
        (split, genes.assign(selected=False), {"split": chosen}, "selects no gene"),
        (split, genes, {}, "settings need split"),
        (split, genes, {"split": chosen, "scal": None}, "no setting scal; did you mean scale"),
        (split, genes, {"split": chosen, "regress_out": ["context"]}, "context c1 has no training cells"),
    ):
        with pytest.raises(ContractError, match=message):
            partition(NORMAL, bad_split, bad_genes, extra)


def test_genes_csv_keeps_names_as_text(tmp_path: Path) -> None:
    genes = select_genes(NORMAL, make_split(NORMAL.obs, *SPLITS["kfold"]), {"n_top": 100})
    genes.loc[:2, "gene"] = ["NA", "nan", "1-Mar"]
    genes.loc[3, "reason"] = ""
    genes.to_csv(tmp_path / "genes.csv", index=False)
    pd.testing.assert_frame_equal(read_genes(tmp_path / "genes.csv"), genes)
