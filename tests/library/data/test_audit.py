"""The leak audit: hand-made sides with known overlaps, every promise broken once, duplicates against dense rows."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from small_screen import make_screen

from trueshift.contract import ContractError, read_table, write_table
from trueshift.data.audit import COLUMNS, NARROWER, audit, check_audit, row_keys
from trueshift.data.normalize import normalize
from trueshift.data.partition import partition
from trueshift.data.splitting import make_split

Row = tuple[str, str, str, str]  # perturbation, context, dose, batch
CONTROL = ("control", "c1", "0", "b1")
COMBINATION = {"type": "unseen_combination", "k": 2}
PERTURBATION = {"type": "unseen_perturbation", "k": 2}
ZERO_SHOT = {"type": "zero_shot_context", "folds": {"a": "c1"}}
PARTIAL = {"type": "underrepresented_context", "folds": {"a": "c1"}}
SEEN = {"type": "kfold_cells", "k": 2}
TRAIN: list[Row] = [("A", "c1", "1", "b1"), ("A", "c2", "1", "b1"), ("B", "c2", "1", "b2"), ("A+B", "c2", "1+2", "b2")]
TEST: list[Row] = [
    ("B+A", "c2", "2+1", "b2"),
    ("C", "c1", "1", "b3"),
    ("C+A", "c3", "1+1", "b1"),
    ("A", "c1", "5", "b1"),
]


def side(rows: list[Row], role: str, controls: list[str], name: str) -> ad.AnnData:
    """Cells of ``rows`` in one role, then one control in each of the roles ``controls``; no two rows of X are equal."""
    table = pd.DataFrame(rows + [CONTROL] * len(controls), columns=["perturbation", "context", "dose", "batch"])
    table["role"] = [role] * len(rows) + controls
    table["modality"], table["is_control"] = "KO", table["perturbation"] == "control"
    table.index = pd.Index([f"{name}{i}" for i in range(len(table))])
    values = np.random.default_rng(len(name)).integers(1, 10_000, (len(table), 6)).astype(np.float32)
    values[:, ::2] *= np.arange(len(table))[:, None] % 2  # some zeros
    return ad.AnnData(sparse.csr_matrix(values), obs=table, var=pd.DataFrame(index=[f"g{i}" for i in range(6)]))


def sides(train: list[Row] = TRAIN, test: list[Row] = TEST) -> tuple[ad.AnnData, ad.AnnData]:
    controls = ["control_input", "control_reference"]
    return side(train, "train", ["train", "control_input"], "t"), side(test, "test", controls, "test")


def table_of(train: ad.AnnData, truth: ad.AnnData, entry: dict[str, Any]) -> pd.DataFrame:
    table = audit(train, truth, entry)
    assert table.columns.tolist() == COLUMNS
    return table.set_index("unit")


def test_counts_by_hand() -> None:
    table = table_of(*sides(), SEEN)
    counted = {unit: tuple(row) for unit, row in table[["n_train", "n_test", "n_both"]].dropna().iterrows()}
    assert counted == {
        "perturbation": (3, 4, 2),  # A, B, A+B; A+B, C, A+C, A
        "component": (2, 3, 2),
        "all components": (2, 4, 2),  # A+B and A; C and A+C are new
        "context": (2, 3, 2),
        "perturbation at dose": (3, 4, 1),  # A+B, whatever the context
        "perturbation in context": (4, 4, 2),  # A in c1, A+B in c2
        "condition": (4, 4, 1),  # A+B at 1+2 is B+A at 2+1, but A at 5 is not A at 1
        "batch": (2, 3, 2),
        "dose": (2, 4, 1),
        "modality": (1, 1, 1),
        "cell": (6, 4, 0),
        "control cell": (6, 1, 0),
        "duplicate expression row": (6, 4, 0),
        "duplicate control row": (2, 1, 0),
    }
    assert table.loc["component", "share_test_cells"] == 0.75
    assert list(table.loc["condition", ["share_test_cells", "example"]]) == [0.25, "c2 | A+B | 1+2"]
    assert list(table.loc["perturbation", ["example", "verdict"]]) == ["A, A+B", "shared as the split says"]
    assert list(table.loc["batch", ["promised", "verdict"]]) == ["–", "shared; the split says nothing"]
    assert list(table.loc["cell", ["promised", "verdict"]]) == ["held out", "ok"]
    assert table.loc["scaffold", "verdict"] == "not known"


@pytest.mark.parametrize(
    ("entry", "train", "test", "message"),
    [
        (PERTURBATION, [("A", "c2", "1", "b")], [("A", "c1", "5", "b")], "1 of 1 .* unit perturbation .* first A;"),
        (PERTURBATION, [("A", "c", "1", "b"), ("B+D", "c", "1+1", "b")], [("A+B", "c", "1+1", "b")], "all components"),
        (COMBINATION, [("B+A", "c2", "2+1", "b")], [("A+B", "c1", "3+3", "b")], r"perturbation .* first A\+B;"),
        (ZERO_SHOT, [("A", "c1", "1", "b")], [("B", "c1", "1", "b"), ("B", "c3", "1", "b")], "1 of 2 .* context .*50%"),
        (PARTIAL, [("A", "c1", "1", "b")], [("A", "c1", "5", "b")], r"perturbation in context .* first c1 \| A;"),
        ({"type": "file", "folds": {"a": "x.csv"}, "asks": "new_context"}, TRAIN, TEST, "unit context"),
    ],
)
def test_a_broken_promise_is_refused(entry: dict[str, Any], train: list[Row], test: list[Row], message: str) -> None:
    table = audit(*sides(train, test), entry)
    with pytest.raises(ContractError, match=f"^here: leak: .*{message}.*correct the folds"):
        check_audit(table, "here")


@pytest.mark.parametrize(
    ("entry", "train", "test"),
    [
        (PERTURBATION, [("A", "c", "1", "b")], [("A+B", "c", "1+1", "b"), ("B", "c", "1", "b")]),
        (
            COMBINATION,
            [("A", "c", "1", "b"), ("B", "c", "1", "b"), ("A+C", "c", "1+1", "b")],
            [("B+A", "c", "1+1", "b")],
        ),
        (ZERO_SHOT, [("A", "c2", "1", "b")], [("A", "c1", "1", "b")]),
        (PARTIAL, [("A", "c2", "1", "b"), ("B", "c1", "1", "b")], [("A", "c1", "1", "b")]),
        (SEEN, TRAIN, TRAIN),
        ({"type": "file", "folds": {"a": "x.csv"}}, TRAIN, TRAIN),
    ],
)
def test_what_a_split_allows_passes(entry: dict[str, Any], train: list[Row], test: list[Row]) -> None:
    check_audit(audit(*sides(train, test), entry), "here")


def test_validation_and_misplaced_cells_are_training() -> None:
    for role in ("val", "control_input"):  # whatever a perturbed cell's role: a model is given train.h5ad
        train, truth = sides([("A", "c2", "1", "b")], [("A", "c1", "1", "b")])
        train.obs.loc["t0", "role"] = role
        with pytest.raises(ContractError, match="leak"):
            check_audit(audit(train, truth, PERTURBATION), "here")


@pytest.mark.parametrize(("row", "unit"), [(0, "cell"), (5, "control cell")])
def test_a_cell_on_both_sides_is_refused_by_every_split(row: int, unit: str) -> None:
    train, truth = sides()
    assert truth.obs["role"].iloc[row] == ("test" if unit == "cell" else "control_reference")
    truth.obs_names = [f"t{row}" if i == row else name for i, name in enumerate(truth.obs_names)]
    with pytest.raises(ContractError, match=f"unit {unit} .* first t{row}; .*one role"):
        check_audit(audit(train, truth, SEEN), "here")


def test_duplicates_are_named_and_zeros_left_out() -> None:
    train, truth = sides()
    x, y = train.X.toarray(), truth.X.toarray()
    y[2] = x[1]  # a test cell like a training cell
    y[0] = y[1] = x[4]  # two test cells like a training control
    y[5] = x[5]  # a reference control like an input control
    x[0] = y[3] = 0
    train.X, truth.X = sparse.csr_matrix(x), sparse.csc_matrix(y)
    table = table_of(train, truth, SEEN)
    row = table.loc["duplicate expression row"]
    assert list(row[["n_train", "n_test", "n_both", "share_test_cells"]]) == [5, 2, 2, 0.75]
    assert row["example"] == "t4 = test0, t1 = test2" and row["verdict"].startswith("duplicates: look at")
    assert table.loc["duplicate control row", "example"] == "t5 = test5"
    assert list(table.loc["expression row of zeros", ["n_train", "n_test"]]) == [1, 1]
    check_audit(table.reset_index(), "here")  # duplicates happen among sparse cells: shown, not refused


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.sampled_from([0, 1, -2.5])))
def test_row_keys_are_equal_where_rows_are(values: np.ndarray) -> None:
    expected = (values[:, None] == values[None]).all(axis=2) & (values != 0).any(axis=1)[:, None]
    untidy = sparse.csr_matrix(values)
    untidy.data, untidy.indices = untidy.data.copy(), untidy.indices.copy()
    for start, stop in zip(untidy.indptr[:-1], untidy.indptr[1:], strict=True):  # indices from last to first
        for part in (untidy.data, untidy.indices):
            part[start:stop] = part[start:stop][::-1].copy()
    untidy.has_sorted_indices = False
    full = np.nonzero(np.ones_like(values))
    with_zeros = sparse.csr_matrix((values.ravel(), full), shape=values.shape)
    assert with_zeros.nnz == values.size
    for matrix in (values, untidy, with_zeros, sparse.csr_matrix(values.astype(np.float64))):
        found, same = row_keys(matrix), row_keys(values)
        assert ((found[:, None] == same[None]) & np.array([k is not None for k in found])[:, None] == expected).all()


def test_scaffolds_from_features_or_obs() -> None:
    train, truth = sides()
    train.uns["perturbation_features"] = {
        "numbers": pd.DataFrame({"f0": [1.0, 2.0]}, index=["A", "B"]),
        "drugs": pd.DataFrame({"scaffold": ["ring", "ring", None]}, index=["A", "C", "B"]),
    }
    row = table_of(train, truth, SEEN).loc["scaffold"]
    assert list(row[["n_train", "n_test", "n_both", "share_test_cells", "example"]]) == [1, 1, 1, 1.0, "ring"]
    train.obs["scaffold"], truth.obs["scaffold"] = "ring", ["chain", "", "ring", "chain", "", ""]
    row = table_of(train, truth, SEEN).loc["scaffold"]
    assert list(row[["n_train", "n_test", "n_both", "share_test_cells"]]) == [1, 2, 1, 0.25]


def test_matched_controls_of_profiles() -> None:
    train, truth = sides()
    train.obs["control_id"] = pd.Categorical(["k1", "k2", "k2", "k3", "", ""])
    truth.obs["control_id"] = pd.Categorical(["k3", "k4", "k5", "k5", "", ""])
    row = table_of(train, truth, SEEN).loc["control_id"]
    assert list(row[["n_train", "n_test", "n_both", "share_test_cells", "example"]]) == [3, 3, 1, 0.25, "k3"]


@pytest.mark.parametrize(
    ("entry", "fold", "held"),
    [
        ({"type": "kfold_cells", "k": 3}, "1", set()),
        (
            {"type": "unseen_perturbation", "k": 3},
            "2",
            {"perturbation", "all components", "perturbation at dose", *NARROWER},
        ),
        ({"type": "unseen_combination", "k": 3}, "2", {"perturbation", "perturbation at dose", *NARROWER}),
        (PARTIAL, "a", set(NARROWER)),
        (ZERO_SHOT, "a", {"context", *NARROWER}),
    ],
)
def test_every_type_of_split_as_partition_cuts_it(
    entry: dict[str, Any], fold: str, held: set[str], tmp_path: Path
) -> None:
    adata = normalize(make_screen(), {})
    split = make_split(adata.obs, entry, fold)
    genes = pd.DataFrame({"gene": adata.var_names, "selected": True})
    train, _, truth = partition(adata, split, genes, {"split": entry})
    table = audit(train, truth, entry)
    check_audit(table, "here")
    assert not table["verdict"].str.startswith(("leak", "duplicates")).any()
    promised = table[table["promised"] == "held out"]
    assert set(promised["unit"]) == held | {"cell", "control cell"}
    assert (promised["n_both"] == 0).all() and (promised["n_test"] > 0).all()
    write_table(table, tmp_path / "leaks.csv")
    back = read_table(tmp_path / "leaks.csv")
    assert back["unit"].tolist() == table["unit"].tolist()
    assert back["n_both"].fillna(-1).tolist() == table["n_both"].fillna(-1).tolist()


def test_other_genes_are_refused() -> None:
    train, truth = sides()
    with pytest.raises(ContractError, match="other genes"):
        audit(train, truth[:, ::-1].copy(), SEEN)
