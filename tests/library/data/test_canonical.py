"""From source columns to canonical form, and every bad input with the message it gets."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from trueshift.contract import ContractError, check_canonical, components
from trueshift.data.canonical import canonicalise as canonical
from trueshift.data.canonical import features
from trueshift.data.canonical.canonicalise import canonicalise

VERSIONS = {"source": "a test", "checksum": "sha256:0"}
COLUMNS = {
    "perturbation": {"from": "guide", "control": "NT"},
    "context": "line",
    "batch": {"from": "sample", "extract": r"(\d+)$"},
    "dose": {"from": "amount", "unit": "uM"},
    "modality": {"value": "KO"},
}


def source(**obs: list[Any]) -> ad.AnnData:
    """Eight cells × three genes of counts; columns can be replaced or added."""
    table = {
        "guide": ["NT", "NT", "A", "A", "B", "A+B", "B+A", "NT"],
        "line": ["x", "x", "x", "x", "x", "x", "y", "y"],
        "sample": ["s1", "t2", "s1", "t2", "s1", "t2", "s1", "t2"],
        "amount": [0, 0, 1.0, 2.0, 1.0, 1.0, 0.5, np.nan],
        "frac": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.9, 0.9],
        **obs,
    }
    counts = np.random.default_rng(0).poisson(2.0, (8, 3)) + 1.0
    index = pd.Index([f"c{i}" for i in range(8)])
    return ad.AnnData(sparse.csr_matrix(counts), pd.DataFrame(table, index=index), pd.DataFrame(index=list("ABC")))


def convert(raw: ad.AnnData, columns: dict | None = None, **settings: Any) -> ad.AnnData:
    chosen = {**COLUMNS, **(columns or {})}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    return canonicalise(raw, "toy", {"kind": "counts", "columns": chosen, **settings}, VERSIONS, log=lambda _: None)


def test_mapping() -> None:
    raw = source()
    data = convert(raw, targets_measured=True)
    check_canonical(data, "toy")
    assert list(data.obs) == ["perturbation", "modality", "context", "batch", "dose", "is_control"]
    assert data.obs["perturbation"].tolist() == ["control", "control", "A", "A", "B", "A+B", "A+B", "control"]
    assert data.obs["dose"].tolist() == ["0", "0", "1", "2", "1", "1+1", "0.5+0.5", "0"]
    assert data.obs["batch"].tolist() == ["1", "2"] * 4
    assert data.obs["is_control"].tolist() == [True, True, False, False, False, False, False, True]
    assert data.obs["is_control"].dtype == bool
    assert isinstance(data.X, sparse.csr_matrix) and data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X.toarray(), raw.X.toarray())
    meta = data.uns["trueshift"]
    assert (meta["dataset"], meta["kind"], meta["dose_unit"]) == ("toy", "counts", "uM")
    assert (meta["targets_measured"], meta["preselected_genes"]) == (True, False)
    assert meta["provenance"] == VERSIONS


def test_defaults_for_what_a_source_lacks() -> None:
    data = convert(source(), {"batch": None, "dose": None, "modality": None})
    assert set(data.obs["batch"]) == {"all"}
    assert set(data.obs["modality"]) == {"unknown"}
    assert data.obs["dose"].tolist() == ["0", "0", "1", "1", "1", "1+1", "1+1", "0"]


def test_constant_context() -> None:
    assert set(convert(source(), {"context": {"value": "K562"}}).obs["context"]) == {"K562"}


def test_several_control_labels_and_controls_inside_combinations() -> None:
    guides = ["NT1", "NT2", "A_NT1", "NT2_A", "B", "A_B", "B_A", "NT1_NT2"]
    doses = ["1", "1", "3+1", "1+3", "1", "1+2", "2+1", "1+1"]
    spec = {"from": "guide", "control": ["NT1", "NT2"], "separator": "_"}
    data = convert(source(guide=guides, amount=doses), {"perturbation": spec})
    assert data.obs["perturbation"].tolist() == ["control", "control", "A", "A", "B", "A+B", "A+B", "control"]
    assert data.obs["dose"].tolist() == ["0", "0", "3", "3", "1", "1+2", "1+2", "0"]


def test_a_control_label_may_hold_the_separator() -> None:
    guides = ["non_target", "non_target", "A", "A", "B", "A_B", "B_A", "non_target"]
    spec = {"from": "guide", "control": "non_target", "separator": "_"}
    data = convert(source(guide=guides), {"perturbation": spec})
    assert data.obs["is_control"].sum() == 3


@given(st.permutations(["A", "B", "C"]), st.permutations([1, 2, 3]))
def test_order_of_components_does_not_matter(order: list[str], doses: list[int]) -> None:
    guides = ["NT", "NT", "A", "A", "B", "+".join(order), "NT", "NT"]
    amounts = ["0"] * 2 + ["1"] * 3 + ["+".join(map(str, doses))] + ["0"] * 2
    data = convert(source(guide=guides, amount=amounts))
    assert data.obs["perturbation"].iloc[5] == "A+B+C"
    pairs = dict(zip(components("A+B+C"), data.obs["dose"].iloc[5].split("+"), strict=True))
    assert pairs == {part: str(dose) for part, dose in zip(order, doses, strict=True)}


def test_a_label_under_two_modalities_becomes_two_perturbations() -> None:
    said: list[str] = []
    kinds = ["a", "i", "CRISPRa", "CRISPRi", "CRISPRi", "CRISPRa", "CRISPRi", "i"]
    guides = ["NT", "NT", "A", "A", "D", "A+C", "D+A", "NT"]
    settings = {"kind": "counts", "columns": {**COLUMNS, "modality": "how"}}
    data = canonicalise(source(how=kinds, guide=guides), "toy", settings, VERSIONS, log=said.append)
    expected = ["control", "control", "A@CRISPRa", "A@CRISPRi", "D", "A@CRISPRa+C", "A@CRISPRi+D", "control"]
    assert data.obs["perturbation"].tolist() == expected
    assert any("several modalities" in line and "A" in line for line in said)


def test_names_with_a_plus() -> None:
    said: list[str] = []
    guides = ["NT", "NT", "(+)-JQ1", "(+)-JQ1", "B", "Na+", "Na+", "NT"]
    columns = {**COLUMNS, "perturbation": {"from": "guide", "control": "NT", "separator": None}}
    data = canonicalise(source(guide=guides), "toy", {"kind": "counts", "columns": columns}, VERSIONS, log=said.append)
    assert set(data.obs["perturbation"]) == {"control", "(plus)-JQ1", "B", "Naplus"}
    assert any("(+)-JQ1" in line for line in said)
    with pytest.raises(ContractError, match=r"label '\(\+\)-JQ1' does not split at '\+'.*null"):
        convert(source(guide=guides))


def test_numbers_as_labels_and_scientific_doses() -> None:
    amounts = ["0", "0", "1e+3", "1e-2", "10.0", "1e+1+2", "1", "0"]
    data = convert(source(line=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0], amount=amounts))
    assert data.obs["context"].tolist() == ["1"] * 6 + ["2"] * 2
    assert data.obs["dose"].tolist() == ["0", "0", "1000", "0.01", "10", "10+2", "1+1", "0"]


def test_gene_symbols_size_factors_pairs_and_extra_columns() -> None:
    raw = source(total=np.arange(1.0, 9.0), partner=[None, None, "c0", "c1", "c0", "c1", "c7", None])
    raw.var["symbol"] = pd.Categorical(["KLF1", None, "GATA1"])
    more = {"gene_symbol": "symbol", "size_factor": "total", "control_id": "partner", "keep": ["frac"]}
    data = convert(raw, more)
    assert data.var_names.tolist() == ["KLF1", "B", "GATA1"]
    assert data.var["gene_id"].tolist() == ["A", "B", "C"]
    assert data.obs["size_factor"].tolist() == list(range(1, 9))
    assert data.obs["control_id"].tolist() == ["", "", "c0", "c1", "c0", "c1", "c7", ""]
    assert data.obs["frac"].tolist() == raw.obs["frac"].tolist()


@pytest.mark.parametrize(
    ("rules", "cells"),
    [
        ({"frac": {"min": 0.7}}, [0, 1, 2, 6, 7]),
        ({"frac": {"min": 0.5, "max": 0.8}, "line": {"equals": "x"}}, [1, 2, 3, 4]),
        ({"guide": {"in": ["NT", "B"]}}, [0, 1, 4, 7]),
        ({"guide": {"not_in": ["A", "not there"]}}, [0, 1, 4, 5, 6, 7]),
        ({"guide": {"present": True}}, list(range(8))),
    ],
)
def test_filters(rules: dict, cells: list[int]) -> None:
    data = convert(source(), filter=rules)
    assert data.obs_names.tolist() == [f"c{i}" for i in cells]
    np.testing.assert_array_equal(data.X.toarray(), source().X.toarray()[cells])


def test_cells_without_a_value_pass_no_filter() -> None:
    guides = ["NT", "NT", None, "A", "nan", "A", "A", "NT"]
    for rule in ({"present": True}, {"not_in": ["*"]}):
        data = convert(source(guide=guides), filter={"guide": rule})
        assert data.obs_names.tolist() == ["c0", "c1", "c3", "c5", "c6", "c7"]


def test_labels_of_filtered_cells_are_forgotten() -> None:
    guides = ["NT", "NT", "A", "A", "(odd", "A", "A", "NT"]
    data = convert(source(guide=guides), filter={"guide": {"not_in": ["(odd"]}})
    assert data.obs["perturbation"].cat.categories.tolist() == ["A", "control"]


def test_features_from_files(tmp_path: Any) -> None:
    table = pd.DataFrame({"name": ["B", "A", "Z"], "x": [1.0, 2.0, 3.0], "y": [4.0, 5.0, 6.0]})
    table.to_csv(tmp_path / "f.csv", index=False)
    table.set_index("name").to_parquet(tmp_path / "f.parquet")
    np.savez(tmp_path / "f.npz", names=table["name"].to_numpy(str), values=table[["x", "y"]].to_numpy())
    for ending in ("csv", "parquet", "npz"):
        data = canonicalise(
            source(), "toy", {"kind": "counts", "columns": COLUMNS, "features": {"esm": f"{{data}}/f.{ending}"}},
            VERSIONS, tmp_path, log=lambda _: None,
        )  # fmt: skip
        features = data.uns["perturbation_features"]["esm"]
        assert features.index.tolist() == ["A", "B"] and features.columns.tolist() == ["f0", "f1"]
        assert features.to_numpy().tolist() == [[2.0, 5.0], [1.0, 4.0]]


def test_features_follow_modality_suffixes(tmp_path: Any) -> None:
    pd.DataFrame({"name": ["A", "B", "A@CRISPRi"], "x": [1.0, 2.0, 3.0]}).to_csv(tmp_path / "f.csv", index=False)
    kinds = ["a", "i", "CRISPRa", "CRISPRi", "CRISPRa", "CRISPRa", "CRISPRi", "i"]
    settings = {"kind": "counts", "columns": {**COLUMNS, "modality": "how"}, "features": {"f": "{data}/f.csv"}}
    data = canonicalise(source(how=kinds), "toy", settings, VERSIONS, tmp_path, log=lambda _: None)
    values = data.uns["perturbation_features"]["f"]["f0"].to_dict()
    assert values == {"A@CRISPRa": 1.0, "A@CRISPRi": 3.0, "B@CRISPRa": 2.0, "B@CRISPRi": 2.0}


def broken(change: Any) -> ad.AnnData:
    raw = source()
    change(raw)
    return raw


def set_value(value: float) -> Any:
    def change(raw: ad.AnnData) -> None:
        values = raw.X.toarray()
        values[3, 1] = value
        raw.X = sparse.csr_matrix(values)

    return change


def twice(axis: str) -> Any:
    def change(raw: ad.AnnData) -> None:
        names = [*getattr(raw, axis)[:-1], getattr(raw, axis)[0]]
        setattr(raw, axis, names)

    return change


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize(
    ("raw", "columns", "settings", "message"),
    [
        (
            source(),
            {"context": "lines"},
            {},
            r"context: the source has no column 'lines'; did you mean 'line'\? There are: guide, line",
        ),
        (
            source(),
            {"perturbation": {"from": "guide", "control": "nt"}},
            {},
            r"no cell has the control label 'nt'; did you mean 'NT'",
        ),
        (
            source(),
            {"perturbation": {"from": "guide", "control": ["NT", "DMSO"]}},
            {},
            r"control label 'DMSO'; There are: A, A\+B",
        ),
        (source(), {"perturbation": "guide"}, {}, r"perturbation: control is not set"),
        (source(), {"perturbation": None}, {}, r"columns: perturbation is not mapped"),
        (source(), {"contxt": "line"}, {}, r"unknown setting 'contxt'; did you mean 'context'"),
        (
            source(),
            {"batch": {"from": "sample", "extrat": "x"}},
            {},
            r"batch: unknown setting 'extrat'; did you mean 'extract'",
        ),
        (
            source(),
            {"batch": {"from": "sample", "extract": r"^s(\d)"}},
            {},
            r"batch: extract '\^s\(\\d\)' does not match 't2'",
        ),
        (source(), {"batch": {"from": "sample", "extract": r"\d"}}, {}, r"has no group"),
        (source(), {"batch": {"from": "sample", "extract": r"(\d"}}, {}, r"is not a regular expression"),
        (source(), {"batch": {"extract": r"(\d)"}}, {}, r"batch: say where it comes from"),
        (
            source(line=["x", None, "x", "x", "x", np.nan, "y", "y"]),
            {},
            {},
            r"source column 'line' has 2 cells without a label",
        ),
        (
            source(guide=["NT", None, "A", "A", "B", "", "A", "NT"]),
            {},
            {},
            r"source column 'guide' has 2 cells without a label",
        ),
        (
            source(amount=[0, 0, 1, np.nan, 1, np.nan, 1, 0]),
            {},
            {},
            r"source column 'amount' has 2 perturbed cells without a dose",
        ),
        (source(amount=["0", "0", "1", "high", "1", "1", "1", "0"]), {}, {}, r"dose 'high' of 'A' is not a number"),
        (
            source(amount=["0", "0", "1", "1", "1", "1+1+1", "1", "0"]),
            {},
            {},
            r"'A\+B' has 2 components but dose '1\+1\+1' has 3",
        ),
        (source(guide=["NT", "NT", "A", "A", "B", "A+", "A", "NT"]), {}, {}, r"label 'A\+' does not split"),
        (source(guide=["NT", "NT", "A", "A", "B@x", "A", "A", "NT"]), {}, {}, r"label 'B@x' holds '@'"),
        (
            source(guide=["NT", "NT", "A", "A", "control", "A", "A", "NT"]),
            {},
            {},
            r"'control' is a label but not declared",
        ),
        (source(), {}, {"filter": {"frac": {"min": 2}}}, r"filter: frac: .* leaves no cells"),
        (
            source(),
            {},
            {"filter": {"frac": {"max": 0.6}, "line": {"equals": "y"}}},
            r"filter: line: .* leaves no cells; it alone lets 2 of 8",
        ),
        (source(), {}, {"filter": {"line": {"in": ["X"]}}}, r"filter: line: no cell has 'X'; did you mean 'x'"),
        (source(), {}, {"filter": {"fraction": {"min": 2}}}, r"has no column 'fraction'; did you mean 'frac'"),
        (source(), {}, {"filter": {"frac": {"minimum": 2}}}, r"unknown setting 'minimum'; did you mean 'min'"),
        (source(), {}, {"filter": {"line": {"min": 2}}}, r"need numbers, not 'x'"),
        (source(), {}, {"filter": {"guide": {"in": ["A", "B"]}}}, r"control label 'NT'"),
        (source(), {}, {"filter": {"guide": {"equals": "NT"}}}, r"all cells are controls"),
        (source(line=["x"] * 7 + ["z"]), {}, {}, None),
        (source(line=["x"] * 5 + ["v", "w", "x"]), {}, {}, r"no controls in context v, w"),
        (
            source(total=[1, 2, 3, 0, 5, 6, -7, 8]),
            {"size_factor": "total"},
            {},
            r"source column 'total' is not above 0 in 2 cells, first c3 \(0\)",
        ),
        (source(total=[1, 2, 3, "much", 5, 6, 7, 8]), {"size_factor": "total"}, {}, r"first c3 \(much\)"),
        (
            source(partner=["c0"] * 6 + [None, None]),
            {"control_id": "partner"},
            {},
            r"control_id: 1 perturbed profiles have none",
        ),
        (source(batch=["u"] * 8), {"keep": ["batch"]}, {}, r"keep: 'batch' is the name of a canonical column"),
        (broken(twice("obs_names")), {}, {}, r"1 cell ids occur more than once, first c0"),
        (broken(twice("var_names")), {}, {}, r"1 gene ids occur more than once, first A"),
        (broken(set_value(np.nan)), {}, {}, r"NaN or infinite, first in gene B"),
        (broken(set_value(np.inf)), {}, {"kind": "profile"}, r"NaN or infinite, first in gene B"),
        (broken(set_value(-1)), {}, {}, r"counts are negative, first in gene B"),
        (
            broken(set_value(1.5)),
            {},
            {},
            r"kind is counts but values are not whole numbers, first in gene B.*set kind: lognorm",
        ),
        (source(), {}, {"kind": "lognorm"}, r"kind is lognorm but all values are whole numbers.*set kind: counts"),
        (broken(set_value(-0.5)), {}, {"kind": "lognorm"}, r"kind is lognorm but values are negative, first in gene B"),
        (broken(set_value(99.5)), {}, {"kind": "lognorm"}, r"kind is lognorm but values exceed 25, first in gene B"),
        (broken(set_value(1.5)), {}, {"kind": "lognorm"}, None),
        (broken(set_value(-1.5)), {}, {"kind": "profile"}, None),
        (source(), {}, {"kind": "count"}, r"kind is count, must be one of counts, lognorm, profile, signature"),
    ],
)
def test_bad_input(raw: ad.AnnData, columns: dict, settings: dict, message: str | None) -> None:
    if message is None:
        convert(raw, columns, **settings)
        return
    with pytest.raises(ContractError, match=message) as error:
        convert(raw, columns, **settings)
    assert "toy" in str(error.value) and "\n" not in str(error.value)


def test_empty_values() -> None:
    raw = source()
    raw.X = sparse.csr_matrix(raw.shape)
    with pytest.raises(ContractError, match="all values are 0"):
        convert(raw)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": ["A", "A"], "x": [1.0, 2.0]}, "A occurs twice"),
        ({"name": ["A", "B"], "x": ["u", "v"]}, "column 'x' is not numeric"),
        ({"name": ["A", "B"], "x": [1.0, np.nan]}, "features of B are NaN or infinite"),
        ({"name": ["a", "b"], "x": [1.0, 2.0]}, "no perturbation has a row; rows are such as a, perturbations A"),
    ],
)
def test_bad_features(tmp_path: Any, table: dict, message: str) -> None:
    pd.DataFrame(table).to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(ContractError, match=message):
        convert(source(), features={"f": str(tmp_path / "f.csv")})


def test_simulated_features_of_a_file(tmp_path: Any) -> None:
    with pytest.raises(ContractError, match="simulates no such features"):
        convert(source(), features={"programs": "simulated"})
    np.savez(tmp_path / "f.npz", labels=np.array(["A"]))
    with pytest.raises(ContractError, match="needs arrays names and values; there are labels"):
        convert(source(), features={"f": str(tmp_path / "f.npz")})


def test_gene_found_without_making_large_data_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks work on stored values in blocks; the gene is the first one that is wrong, wherever its block."""
    monkeypatch.setattr(canonical.checks, "BLOCK", 4)
    with pytest.raises(ContractError, match="first in gene B"):
        convert(broken(set_value(-1)))


def test_features_that_are_not_genes_are_left_out_and_counted() -> None:
    raw, said = source(), []
    raw.var["feature_types"] = ["Gene Expression", "Antibody/Capture", "Gene Expression"]
    settings = {"kind": "counts", "columns": COLUMNS}
    data = canonicalise(raw, "toy", settings, VERSIONS, log=said.append)
    assert data.var_names.tolist() == ["A", "C"]
    np.testing.assert_array_equal(data.X.toarray(), source().X.toarray()[:, [0, 2]])
    assert features.counted(data.uns["trueshift"]) == {"Antibody/Capture": 1}
    assert "1 of 3 features are not genes and are left out: 1 Antibody/Capture" in said
    raw.var["feature_types"] = "Peaks"
    assert canonicalise(raw, "toy", settings, VERSIONS, log=said.append).n_vars == 3
    assert any("feature_types never says 'Gene Expression'" in line for line in said)


@pytest.mark.parametrize("kind", ["counts", "profile"])
def test_values_of_16_bits_are_widened(kind: str) -> None:
    raw = source()
    wanted = raw.X.toarray()
    raw.X = wanted.astype(np.float16)
    data = convert(raw, kind=kind)
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X.toarray() if kind == "counts" else data.X, wanted)
