import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from trueshift.contract import (
    CONDITION,
    ContractError,
    Pairs,
    atomic,
    atomic_folder,
    check_canonical,
    check_intact,
    check_prediction,
    column_means,
    components,
    condition_codes,
    dense,
    make_prediction,
    metadata,
    read_h5ad,
    read_json,
    read_pairs,
    read_table,
    target_gene,
    write_h5ad,
    write_json,
    write_pairs,
    write_table,
)

ASKED = [("a", "A", "1"), ("a", "B", "1"), ("b", "A+B", "1+2")]


@pytest.fixture
def query():
    query = ad.AnnData(np.zeros((2, 3), np.float32), var=pd.DataFrame(index=["g0", "g1", "g2"]))
    query.uns["conditions"] = pd.DataFrame(ASKED, columns=CONDITION)
    return query


# --- names ------------------------------------------------------------------------------------------------


def test_components_and_targets():
    assert components("control") == []
    assert components("A@CRISPRi+B@CRISPRi") == ["A@CRISPRi", "B@CRISPRi"]
    assert target_gene("KLF1@CRISPRa") == target_gene("KLF1") == "KLF1"


labels = st.sampled_from(["a", "b", "A+B", "1"])


@given(st.lists(st.tuples(labels, labels, labels), min_size=1, max_size=20))
def test_condition_codes_point_at_their_condition(rows):
    table, codes = condition_codes(pd.DataFrame(rows, columns=CONDITION).astype("category"))
    assert list(table.loc[codes].itertuples(index=False, name=None)) == rows
    assert list(table.itertuples(index=False, name=None)) == sorted(set(rows))


# --- writing ----------------------------------------------------------------------------------------------


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_dies_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        with atomic(path) as temporary:
            temporary.write_text("ha")
            os._exit(0)
    os.waitpid(child, 0)
    assert path.read_text() == "old"


def test_an_error_leaves_the_old_folder(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "two").write_text("2")
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["one"]
    with atomic_folder(path) as folder:
        (folder / "two").write_text("2")
    assert [file.name for file in path.iterdir()] == ["two"]
    assert {file.name for file in tmp_path.iterdir()} == {"model", ".model.crc32"}


def test_folders_on_the_way_are_made(tmp_path):
    write_json({"b": 1, "a": [2]}, tmp_path / "x" / "y.json")
    assert read_json(tmp_path / "x" / "y.json") == {"b": 1, "a": [2]}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_come_back(tmp_path, ending):
    table = pd.DataFrame({"perturbation": ["A+B", "C"], "value": [1.5, np.nan], "n": [1, 2]})
    write_table(table, tmp_path / f"t.{ending}")
    pd.testing.assert_frame_equal(read_table(tmp_path / f"t.{ending}"), table)


def test_pairs_come_back_without_pickle(tmp_path):
    text = np.array(["a", "bb"])
    pairs = Pairs(np.array([[1, 2], [3, 4]], np.int32), np.array([[5, 6], [7, 8]], np.int32), *[text] * 5)
    write_pairs(pairs, tmp_path / "pairs.npz")
    back = read_pairs(tmp_path / "pairs.npz")
    assert back.perturbed.dtype == np.int32
    for name in vars(pairs):
        np.testing.assert_array_equal(getattr(back, name), getattr(pairs, name))


# --- reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_h5ad, read_table])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(ContractError, match=r"nothing\.h5ad: no such file"):
        read(tmp_path / "nothing.h5ad")


def test_a_damaged_h5ad_is_named(tmp_path, query):
    path = tmp_path / "cells.h5ad"
    query.uns.clear()
    write_h5ad(query, path)
    (tmp_path / ".cells.h5ad.crc32").unlink()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ContractError, match=r"cells\.h5ad: cannot be read as h5ad .* delete it"):
        read_h5ad(path)


def test_data_not_made_by_the_import_is_refused(query):
    with pytest.raises(ContractError, match="has no uns"):
        metadata(query)


# --- canonical data -----------------------------------------------------------------------------------------


def canonical() -> ad.AnnData:
    obs = pd.DataFrame({name: ["x", "y"] for name in ("perturbation", "modality", "context", "batch", "dose")})
    obs.index = pd.Index(["c0", "c1"])
    obs["is_control"] = [True, False]
    values = sparse.csr_matrix(np.array([[0, 1], [2, 0]], np.float32))
    return ad.AnnData(values, obs, pd.DataFrame(index=["g0", "g1"]), uns={"trueshift": {"kind": "counts"}})


def test_canonical_data_pass():
    check_canonical(canonical(), "f")


def without_column(adata):
    del adata.obs["batch"]


def twice_a_cell(adata):
    adata.obs_names = ["c0", "c0"]


def twice_a_gene(adata):
    adata.var_names = ["g0", "g0"]


def not_a_number(adata):
    adata.X.data[0] = np.nan


def negative(adata):
    adata.X.data[1] = -1


def no_controls(adata):
    adata.obs["is_control"] = False


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_column, r"f: obs lacks batch; map them in config/datasets\.yaml"),
        (twice_a_cell, r"f: cell ids occur twice \(c0\)"),
        (twice_a_gene, r"f: gene ids occur twice \(g0\)"),
        (not_a_number, "f: X holds NaN or infinite values, first in gene g1"),
        (negative, "f: counts are negative, first in gene g0"),
        (no_controls, "f: no control cells"),
    ],
)
def test_what_is_not_canonical_is_named(spoil, message):
    adata = canonical()
    spoil(adata)
    with pytest.raises(ContractError, match=message):
        check_canonical(adata, "f")


def test_negative_values_are_fine_where_they_are_no_counts():
    adata = canonical()
    negative(adata)
    adata.uns["trueshift"]["kind"] = "signature"
    check_canonical(adata, "f")


def test_means_are_the_same_sparse_and_dense():
    values = np.random.default_rng(0).poisson(1, (50, 4)).astype(np.float32)
    rows = np.array([3, 7, 9])
    for matrix in (values, sparse.csr_matrix(values)):
        np.testing.assert_allclose(column_means(matrix), values.mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(column_means(matrix, rows), values[rows].mean(axis=0, dtype=np.float64))
        assert column_means(matrix).shape == (4,)
        np.testing.assert_array_equal(dense(matrix), values)


# --- predictions ------------------------------------------------------------------------------------------------


def test_profiles_and_cells_in_the_order_asked_pass(query, tmp_path):
    for prediction in (
        make_prediction(query, np.ones((3, 3))),
        make_prediction(query, np.ones((5, 3)), np.array([0, 0, 1, 2, 2])),
    ):
        check_prediction(prediction, query, "p")
        write_h5ad(prediction, tmp_path / "p.h5ad")
        check_prediction(read_h5ad(tmp_path / "p.h5ad"), query, "p")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1], r"p: 1 conditions asked for are missing, first b \| A\+B \| 1\+2"),
        ([1, 0, 2], r"p: conditions are not in the order asked, first at a \| B \| 1; sort"),
        ([0, 1, 1, 2], r"p: condition a \| B \| 1 has two profiles"),
    ],
)
def test_wrong_profiles_are_named(query, rows, message):
    prediction = make_prediction(query, np.ones((3, 3)))[rows].copy()
    prediction.obs_names = [f"profile{i}" for i in range(len(rows))]
    with pytest.raises(ContractError, match=message):
        check_prediction(prediction, query, "p")


def test_conditions_not_asked_for_are_named(query):
    prediction = make_prediction(query, np.ones((3, 3)))
    query.uns["conditions"] = query.uns["conditions"].iloc[:2]
    with pytest.raises(ContractError, match=r"p: 1 conditions were not asked for, first b \| A\+B"):
        check_prediction(prediction, query, "p")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 0, 2], r"conditions asked for are missing, first a \| B \| 1"),
        ([0, 2, 1], "not in the order asked"),
        ([0, 1, 0, 2], "not in the order asked"),  # a condition in two blocks
    ],
)
def test_wrong_blocks_of_cells_are_named(query, rows, message):
    prediction = make_prediction(query, np.ones((len(rows), 3)), np.array(rows))
    with pytest.raises(ContractError, match=message):
        check_prediction(prediction, query, "p")


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (["g0", "g1"], "p: 1 genes asked for are missing, first g2"),
        (["g0", "g2", "g1"], "p: genes are not in the order asked, first at g2"),
    ],
)
def test_wrong_genes_are_named(query, genes, message):
    prediction = make_prediction(query, np.ones((3, 3)))[:, genes].copy()
    with pytest.raises(ContractError, match=message):
        check_prediction(prediction, query, "p")


def test_extra_genes_are_named(query):
    prediction = make_prediction(query, np.ones((3, 3)))
    with pytest.raises(ContractError, match="p: 1 genes were not asked for, first g2"):
        check_prediction(prediction, query[:, :2].copy(), "p")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_must_be_finite(query, value):
    values = np.ones((3, 3))
    values[1, 2] = value
    with pytest.raises(ContractError, match="p: predicted values are NaN or infinite"):
        check_prediction(make_prediction(query, values), query, "p")


# --- damage -------------------------------------------------------------------------------------------


def flip(path, position=0.5):
    """Flips one bit of a file; its length and time of change stay."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 4
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("position", [0, 0.3, 0.9, 1])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_flipped_bit_of_a_table_is_refused_by_name(tmp_path, name, position):
    path = tmp_path / name
    write_table(pd.DataFrame({"a": np.arange(50)}), path)
    read_table(path)
    flip(path, position)
    with pytest.raises(ContractError, match=f"{name}: damaged.*delete it so that it is made again"):
        read_table(path)


def test_a_file_that_is_shorter_than_it_was_is_refused_by_name(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(pd.DataFrame({"a": np.arange(50)}), path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ContractError, match="damaged"):
        read_table(path)


def test_what_is_written_again_is_whole_again(tmp_path):
    path = tmp_path / "t.csv"
    write_table(pd.DataFrame({"a": [1]}), path)
    flip(path)
    write_table(pd.DataFrame({"a": [2]}), path)
    assert read_table(path)["a"].tolist() == [2]


def test_a_file_without_checksum_is_taken_as_it_is(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    assert read_table(path)["a"].tolist() == [1]
    (tmp_path / ".t.csv.crc32").write_text("00000000\n")
    with pytest.raises(ContractError, match=r"delete \.t\.csv\.crc32 beside it"):
        read_table(path)


@pytest.mark.parametrize("damage", ["flip", "lose", "rename", "add"])
def test_a_folder_is_checked_with_the_names_and_contents_of_its_files(tmp_path, damage):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("one")
        (folder / "b").write_text("two")
    model = tmp_path / "model"
    (model / ".snakemake_timestamp").touch()
    check_intact(model)
    if damage == "flip":
        flip(model / "b")
    elif damage == "lose":
        (model / "b").unlink()
    elif damage == "rename":
        (model / "b").rename(model / "c")
    else:
        (model / "c").touch()
    with pytest.raises(ContractError, match="model: damaged"):
        check_intact(model)


def test_what_a_killed_writer_left_is_swept_when_old(tmp_path):
    old, young = tmp_path / ".t.1.partial.csv", tmp_path / ".t.2.partial.csv"
    for left in (old, young):
        left.touch()
    os.utime(old, (0, 0))
    write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.csv")
    assert [old.exists(), young.exists()] == [False, True]
