"""Predictions made elsewhere: the round trip through a stranger's file, and every mismatch by its message."""

import pickle
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from trueshift.contract import CONDITION, ContractError, asked, check_prediction, column_means, make_prediction
from trueshift.evaluation.external import adopt, read_external

GENES = 300
NAMES = [f"ENSG{i:05d}" for i in range(GENES - 2)] + ["HLA-A", "Tp53"]
ASKED = [
    ("c1", "A", "1"),
    ("c1", "A+B", "1+2"),
    ("c1", "C", "0.5"),
    ("c2", "A", "1"),
    ("c2", "C", "0.5"),
    ("c2", "C", "5"),
]
RATE = np.random.default_rng(0).gamma(0.5, 4, GENES) + 0.05
TARGET = 10_000


def cells(rng: np.random.Generator, n: int, factor: Any = 1.0, target: float = TARGET) -> np.ndarray:
    counts = rng.poisson(RATE * factor, (n, GENES))
    return np.log1p(counts * target / counts.sum(axis=1, keepdims=True))


def make_query(kind: str = "counts", conditions: list[tuple[str, str, str]] = ASKED) -> ad.AnnData:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"context": np.repeat(["c1", "c2"], 60), "perturbation": "control", "dose": "0"})
    obs.index = pd.Index([f"k{i}" for i in range(120)])
    table = pd.DataFrame(conditions, columns=CONDITION).assign(modality="drug", n_cells=20, n_seen=1)
    how = f"log1p of counts scaled to {TARGET} per cell by the cell's total"
    return ad.AnnData(
        sparse.csr_matrix(cells(rng, 120).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame({"gene_id": [f"id{i}" for i in range(GENES)]}, index=NAMES),
        uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": kind, "normalization": how}},
    )


QUERY = make_query()


def ours(query: ad.AnnData = QUERY, n: int | None = 8, target: float = TARGET, effect: float = 0.5) -> ad.AnnData:
    """A prediction in our form, ``n`` cells per condition, or profiles if None; each moves genes of its own."""
    rng = np.random.default_rng(2)
    moved = np.exp(rng.normal(0, effect, (len(asked(query)), GENES)))
    values = np.stack([cells(rng, n or 50, factor, target) for factor in moved])
    if n is None:
        return make_prediction(query, values.mean(axis=1))
    return make_prediction(query, np.concatenate(values), np.repeat(np.arange(len(moved)), n))


def foreign(prediction: ad.AnnData, seed: int = 0) -> ad.AnnData:
    """The same values as others may write them: shuffled, with genes, conditions and controls that nobody asked for."""
    rng = np.random.default_rng(seed)
    more = prediction.obs.iloc[np.arange(12) % 6].set_axis([f"more{i}" for i in range(12)])
    more["perturbation"] = ["control"] * 5 + ["X"] * 4 + ["A+X"] * 3
    obs = pd.concat([prediction.obs, more])
    values = rng.random((len(obs), GENES + 7)).astype(np.float32) * 9
    values[: prediction.n_obs, :GENES] = prediction.X
    file = ad.AnnData(
        values, obs=obs, var=pd.DataFrame(index=[*prediction.var_names, *(f"extra{i}" for i in range(7))])
    )
    return file[rng.permutation(file.n_obs), rng.permutation(file.n_vars)].copy()


def same_cells(one: ad.AnnData, two: ad.AnnData) -> None:
    """Equal condition by condition; the order of the cells of one condition means nothing."""
    assert one.var_names.tolist() == two.var_names.tolist()
    assert one.obs[CONDITION].to_numpy().tolist() == two.obs[CONDITION].to_numpy().tolist()
    for _, rows in one.obs.reset_index().groupby(CONDITION, observed=True).groups.items():
        a, b = (np.asarray(part.X)[rows] for part in (one, two))
        np.testing.assert_array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)])


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999), n=st.sampled_from([None, 2, 8]), store=st.sampled_from(["dense", "csr", "csc", "layer"])
)
def test_round_trip(seed: int, n: int | None, store: str) -> None:
    prediction = ours(n=n)
    file, chosen = foreign(prediction, seed), {}
    if store == "layer":
        file.layers["mine"], chosen["layer"] = file.X.astype(np.float64), "mine"
        file.X = np.zeros(file.shape)
    elif store != "dense":
        file.X = sparse.csr_matrix(file.X).asformat(store)
    adopted, notes = adopt(file, QUERY, chosen, "1", "theirs.h5ad")
    same_cells(adopted, prediction)
    check_prediction(adopted, QUERY, "theirs.h5ad")
    assert adopted.uns["trueshift"]["output"] == ("profile" if n is None else "cells")
    for text in (
        "7 genes were not asked for and are left out, first extra",
        "genes are in another order",
        "5 control rows are left out: controls are ours",
        "conditions that this fold does not ask and are left out, first c",
        "these are profiles" if n is None else f"{n} to {n} rows per condition: these are cells",
    ):
        assert any(text in note for note in notes), (text, notes)


def test_from_disk_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trueshift.evaluation.external.BLOCK", 7 * (GENES + 7))  # seven rows at a time
    prediction = ours()
    for store in (np.asarray, sparse.csr_matrix, sparse.csc_matrix):
        file = foreign(prediction)
        file.X = store(file.X)
        file.write_h5ad(tmp_path / "theirs.h5ad")
        external = read_external(tmp_path / "theirs.h5ad")
        assert external.isbacked
        same_cells(adopt(external, QUERY, {}, "1", "theirs.h5ad")[0], prediction)
        external.file.close()


def test_other_columns_labels_and_doses() -> None:
    prediction = ours(n=None)
    file = prediction.copy()
    doses = {"1": 1.0, "0.5": 0.5, "5": 5.0, "1+2": "2+1"}
    names = {"A": "ctrl+A", "A+B": "B+A", "C": "C"}
    file.obs = pd.DataFrame(
        {
            "line": prediction.obs["context"].astype(str).to_numpy(),
            "drug": prediction.obs["perturbation"].map(names).to_numpy(),
            "uM": [str(doses[dose]) for dose in prediction.obs["dose"]],
            "dose": "something else",
        },
        index=prediction.obs_names,
    )
    file.var = pd.DataFrame({"symbol": file.var_names}, index=[f"row{i}" for i in range(GENES)])
    columns = {"context": "line", "perturbation": "drug", "dose": "uM"}
    chosen = {"columns": columns, "control": ["ctrl", "DMSO"], "genes": "symbol"}
    adopted, notes = adopt(file, QUERY, chosen, "1", "f")
    same_cells(adopted, prediction)
    assert "no row has a control label (DMSO, control, ctrl); none is needed" in notes
    assert any(note.endswith("labels are read by their components, first ctrl+A as A") for note in notes)


def test_what_need_not_be_said_where_one_is_asked() -> None:
    query = make_query(conditions=[("c1", "2", "1"), ("c1", "A", "5")])
    prediction = ours(query)
    file = prediction.copy()
    file.obs = pd.DataFrame({"perturbation": [2.0] * 8 + [np.nan] * 8}, index=file.obs_names)
    file.obs["perturbation"] = file.obs["perturbation"].astype(object).where(file.obs["perturbation"].notna(), "A")
    same_cells(adopt(file, query, {"control": 0}, "1", "f")[0], prediction)
    file.obs["context"] = "another name"
    with pytest.raises(ContractError, match="the file has 2 in context another name only"):
        adopt(file, query, {}, "1", "f")
    for spec in (None, {"value": "c1"}):
        same_cells(adopt(file, query, {"columns": {"context": spec}}, "1", "f")[0], prediction)


def test_folds_of_one_file() -> None:
    prediction = ours()
    other = prediction.copy()
    other.X = other.X + 1
    file = ad.concat([prediction, other], index_unique="-")
    file.obs["fold"] = np.repeat([1, 2], prediction.n_obs)
    adopted, notes = adopt(file, QUERY, {}, "1", "f")
    same_cells(adopted, prediction)
    assert f"{prediction.n_obs} rows of other folds are left out" in notes
    with pytest.raises(ContractError, match=r"no fold third .there are: 1, 2.; .* fold: null"):
        adopt(file, QUERY, {}, "third", "f")
    file.obs.loc[file.obs["perturbation"].isin(["A"]), "fold"] = 2
    with pytest.raises(ContractError, match=r"2 of 6 .* first c1 \| A \| 1; the file has it in fold 2 only"):
        adopt(file, QUERY, {}, "1", "f")
    assert adopt(file, QUERY, {"columns": {"fold": None}}, "1", "f")[0].n_obs == 2 * prediction.n_obs


def renamed(**genes: str) -> ad.AnnData:
    file = ours()
    file.var_names = [genes.get(name.replace("-", "_"), name) for name in file.var_names]
    return file


def relabelled(column: str, old: str, new: str) -> ad.AnnData:
    file = ours()
    file.obs[column] = file.obs[column].astype(str).replace({old: new})
    return file


def valued(change: Any, **more: Any) -> ad.AnnData:
    file = ours(**more)
    file.X = change(np.asarray(file.X, dtype=np.float64))
    return file


def uneven() -> ad.AnnData:
    file = ours()
    return file[7:].copy()


CONTROL_MEAN = column_means(QUERY.X)


@pytest.mark.parametrize(
    ("file", "chosen", "message"),
    [
        # genes
        (ours()[:, 3:].copy(), {}, "3 of 300 genes asked are missing, first ENSG00000, ENSG00001, .*no change"),
        (
            renamed(ENSG00004="ENSG00004.12"),
            {},
            r"1 of them stand there under another spelling .ENSG00004 as ENSG00004\.12",
        ),
        (renamed(HLA_A="hla_a", Tp53="TP53"), {}, "2 of them .*HLA-A as hla_a, Tp53 as TP53"),
        (renamed(ENSG00004="ENSG00005"), {}, "1 genes occur more than once, first ENSG00005"),
        (
            renamed(**{name.replace("-", "_"): f"id{i}" for i, name in enumerate(NAMES)}),
            {},
            "var column gene_id, such as id0",
        ),
        (ours(), {"genes": "symbol"}, "genes: var has no column symbol"),
        # conditions
        (
            relabelled("perturbation", "A+B", "A_B"),
            {},
            r"1 of 6 .* first c1 \| A\+B \| 1\+2; no label .* did you mean A_B",
        ),
        (
            relabelled("context", "c2", "K562"),
            {},
            r"3 of 6 .* c2 \| A \| 1; the file has A in context c1, K562 only",
        ),
        (relabelled("dose", "0.5", "0.7"), {}, r"2 of 6 .* first c1 \| C \| 0.5; the file has it at dose 0.7"),
        (relabelled("dose", "0.5", "low"), {}, "the file has it at dose low"),
        (uneven(), {}, r"c1 \| A \| 1 has one row but c1 \| A\+B \| 1\+2 has 8; give every condition"),
        (
            ours(),
            {"columns": {"perturbation": "drug"}},
            "columns: perturbation: obs has no column drug; .*there are: context",
        ),
        (ours(), {"columns": {"perturbation": None}}, "no column perturbation; name it in columns: perturbation"),
        (ours(), {"columns": {"context": None}}, "no column context, but 2 are asked .c1, c2."),
        (ours(), {"columns": {"dose": None}}, r"no column dose, but c2 \| C is asked at 0.5, 5; name it"),
        (ours(), {"columns": {"doze": "x"}}, "columns: no setting doze; did you mean dose"),
        (ours(), {"contrl": "x"}, "no setting contrl; did you mean control"),
        # controls
        (ours(), {"control": ["x", "A"]}, "control: A is asked for as a perturbation"),
        # values
        (ours(), {"layer": "counts"}, "no layer counts; there are: none"),
        (valued(lambda x: np.where(np.arange(GENES) == 4, np.nan, x)), {}, "NaN or infinite, first in gene ENSG00004"),
        (
            valued(lambda x: np.rint(np.expm1(x) / 20)),
            {},
            "whole numbers, up to .* counts; normalise .*: log1p of counts scaled to 10000",
        ),
        (valued(np.expm1), {}, "values up to .* are not logarithms"),
        (valued(lambda x: x - CONTROL_MEAN), {}, "effects instead of expression; add the mean of the input controls"),
        (valued(lambda x: (x - x.mean(axis=0)) / (x.std(axis=0) + 1)), {}, "centred or scaled"),
        (
            valued(lambda x: x, target=1e6),
            {},
            r"predicted means sum to [\d,.]+ after expm1 .* the input controls to [\d,.]+ \(.* another target_sum",
        ),
        (valued(lambda x: x * 0), {}, "predicted means sum to 0 "),
        (valued(lambda x: x / np.log(2), effect=0.1), {}, "1.44 times .* base 2, .* Divide by 1.4427"),
        (valued(lambda x: x / np.log(10), effect=0.1, n=None), {}, "0.43 times .* base 10"),
        (
            valued(lambda x: x[:, np.random.default_rng(3).permutation(GENES)]),
            {},
            "correlates by .* genes look permuted",
        ),
        (
            valued(lambda x: x * 0 + np.log1p(np.expm1(CONTROL_MEAN).mean())),
            {},
            "for every gene; this is no expression",
        ),
    ],
)
def test_mismatches_by_name(file: ad.AnnData, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=rf"^theirs\.h5ad: .*{message}"):
        adopt(file, QUERY, chosen, "1", "theirs.h5ad")


def test_names_in_another_column_are_pointed_at() -> None:
    file = ours()
    file.var = pd.DataFrame({"symbol": file.var_names}, index=[f"row{i}" for i in range(GENES)])
    with pytest.raises(ContractError, match="its var column symbol holds 300 of them: set genes: symbol"):
        adopt(file, QUERY, {}, "1", "f")
    file = ours()
    file.var["symbol"] = "x"
    with pytest.raises(ContractError, match="the index of its var holds 300 of them: leave genes: out"):
        adopt(file, QUERY, {"genes": "symbol"}, "1", "f")


@pytest.mark.parametrize("n", [None, 8])
def test_bad_but_honest_predictions_are_scored(n: int | None) -> None:
    for change, note in (
        (lambda x: x - 0.02, "some values are below 0 (down to -0.02)"),
        (lambda x: 0 * x + CONTROL_MEAN, ""),
        (lambda x: x * 1.2, ""),
        (lambda x: 0.7 * x[:, ::-1] + 0.3 * x, "are the genes in the order of their names?"),
    ):
        adopted, notes = adopt(valued(change, n=n), QUERY, {}, "1", "f")
        np.testing.assert_array_equal(adopted.X, change(np.asarray(ours(n=n).X, dtype=np.float64)).astype(np.float32))
        assert any(text.startswith(note) or text.endswith(note) for text in notes)


def test_other_kinds_have_their_own_checks() -> None:
    signature = make_query("signature")
    signature.X = sparse.csr_matrix(signature.X.toarray() - CONTROL_MEAN.astype(np.float32))
    effects = valued(lambda x: x - CONTROL_MEAN)
    assert adopt(effects, signature, {}, "1", "f")[0].n_obs == effects.n_obs
    with pytest.raises(ContractError, match=r"whole numbers, up to .*predict on the data's scale .kind signature"):
        adopt(valued(lambda x: np.rint(np.expm1(x))), signature, {}, "1", "f")
    profile = make_query("profile")
    with pytest.raises(ContractError, match="other units; the data are of kind profile"):
        adopt(valued(lambda x: x * 4), profile, {}, "1", "f")
    with pytest.raises(ContractError, match="effects instead of expression"):
        adopt(effects, profile, {}, "1", "f")
    scaled = make_query()
    scaled.X = signature.X  # partition: scale
    assert adopt(effects, scaled, {}, "1", "f")[0].n_obs == effects.n_obs


def test_only_h5ad_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.h5ad"
    with pytest.raises(ContractError, match="no such file"):
        read_external(path)
    path.write_bytes(pickle.dumps({"X": 1}))
    with pytest.raises(ContractError, match=r"is no h5ad .not HDF5."):
        read_external(path)
    pd.DataFrame({"x": [1]}).to_csv(path)
    with pytest.raises(ContractError, match="is no h5ad"):
        read_external(path)
    ours().write_h5ad(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix"] = np.ones(3)
    with pytest.raises(ContractError, match=r"is HDF5 but no h5ad .no obs and no var.; save it"):
        read_external(tmp_path / "other.h5")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ContractError, match="cannot be read as h5ad"):
        read_external(path)
