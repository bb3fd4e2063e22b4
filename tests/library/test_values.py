"""Large dense values, apart from the artefacts that take rows and columns of them."""

import errno
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from trueshift import values
from trueshift.contract import ContractError, discard, open_h5ad, read_h5ad, write_h5ad
from trueshift.data.audit import audit
from trueshift.data.genes import select_genes
from trueshift.data.loading import load
from trueshift.data.normalize import normalize
from trueshift.data.partition import partition
from trueshift.data.qc import found_in, quality_control
from trueshift.data.splitting import make_split

N, G = 40, 7


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "LARGE", 0)
    monkeypatch.setattr(values, "BLOCK", 3 * G * 4)  # three rows


def profiles(n: int = N) -> ad.AnnData:
    obs = pd.DataFrame({"batch": ["b"] * n}, index=[f"p{i}" for i in range(n)])
    data = ad.AnnData(np.random.default_rng(0).normal(8, 1, (n, G)).astype(np.float32), obs=obs)
    data.uns["trueshift"] = {"schema_version": 1, "kind": "profile", "dataset": "set"}
    return data


def hidden(folder: Path) -> set[str]:
    return {
        path.name for path in folder.iterdir() if path.name.endswith((".values", ".scratch")) or "partial" in path.name
    }


# --- written once, read whole or in parts -------------------------------------------------------------


def test_values_are_in_a_file_of_their_own_and_come_back_to_the_bit(tmp_path: Path) -> None:
    data = profiles()
    data.X[3, 2] = -0.0
    write_h5ad(data, tmp_path / "a.h5ad")
    raw = np.fromfile(tmp_path / ".a.h5ad.values", "<f4").reshape(N, G)
    np.testing.assert_array_equal(raw, data.X)
    assert not np.signbit(raw[3, 2])
    assert hidden(tmp_path) == {".a.h5ad.values"}
    back = read_h5ad(tmp_path / "a.h5ad")
    assert isinstance(back.X, np.ndarray) and back.X.dtype == np.float32
    np.testing.assert_array_equal(back.X, data.X)
    pd.testing.assert_frame_equal(back.obs.astype(str), data.obs)
    assert not back.obsm and not back.varm and set(back.uns) == {"trueshift"}
    assert data.X is not None  # what was written is as it was


@pytest.mark.parametrize("change", ["counts", "sparse"])
def test_cells_stay_in_the_artefact(tmp_path: Path, change: str) -> None:
    data = profiles()
    if change == "counts":
        data.uns["trueshift"]["kind"] = "counts"
    else:
        from scipy import sparse

        data.X = sparse.csr_matrix(data.X)
    write_h5ad(data, tmp_path / "a.h5ad")
    assert not hidden(tmp_path) and ad.read_h5ad(tmp_path / "a.h5ad").X is not None


def test_a_part_is_masks_over_the_same_file(tmp_path: Path) -> None:
    whole = profiles()
    write_h5ad(whole, tmp_path / "a.h5ad")
    opened = open_h5ad(tmp_path / "a.h5ad")
    assert opened.X is None and values.are_apart(opened)
    rows, columns = np.array([31, 2, 3, 17]), np.array([1, 2, 5])
    write_h5ad(opened[rows][:, columns].copy(), tmp_path / "b.h5ad")
    assert (tmp_path / ".a.h5ad.values").samefile(tmp_path / ".b.h5ad.values")
    again = open_h5ad(tmp_path / "b.h5ad")
    write_h5ad(again[1:].copy(), tmp_path / "c.h5ad")
    for name in "ab":
        discard(tmp_path / f"{name}.h5ad")  # the last one that is there keeps the file
    back = read_h5ad(tmp_path / "c.h5ad")
    assert back.obs_names.tolist() == ["p2", "p3", "p17"]
    np.testing.assert_array_equal(back.X, whole.X[rows[1:]][:, columns])
    assert hidden(tmp_path) == {".c.h5ad.values"}


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("rows", [None, np.arange(4, 20), np.array([39, 0, 5, 4, 38]), np.array([], dtype=int)])
def test_blocks_cover_what_is_asked_once(tmp_path: Path, apart: bool, rows: np.ndarray | None) -> None:
    data = profiles()
    write_h5ad(data, tmp_path / "a.h5ad")
    given = open_h5ad(tmp_path / "a.h5ad") if apart else data
    expected = data.X if rows is None else data.X[rows]
    found, seen = np.full_like(expected, np.nan), []
    for places, block in values.blocks(given, rows):
        assert len(places) <= 3
        found[places] = block
        seen += places.tolist()
    np.testing.assert_array_equal(found, expected)
    assert sorted(seen) == list(range(len(expected)))
    np.testing.assert_array_equal(values.matrix_of(given, rows), expected)


# --- what is no longer true ---------------------------------------------------------------------------


def test_a_damaged_row_is_refused_where_it_is_read(tmp_path: Path) -> None:
    write_h5ad(profiles(), tmp_path / "a.h5ad")
    file = tmp_path / ".a.h5ad.values"
    content = bytearray(file.read_bytes())
    content[(11 * G + 2) * 4] ^= 1
    file.write_bytes(content)
    with pytest.raises(ContractError, match=r"\.a\.h5ad\.values: damaged: row 11 .*; delete it"):
        read_h5ad(tmp_path / "a.h5ad")
    opened = open_h5ad(tmp_path / "a.h5ad")
    values.matrix_of(opened, np.delete(np.arange(N), 11))
    with pytest.raises(ContractError, match="row 11"):
        values.matrix_of(opened, np.array([3, 11]))


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_lost_or_shortened_file_is_named(tmp_path: Path, damage: str) -> None:
    write_h5ad(profiles(), tmp_path / "a.h5ad")
    file = tmp_path / ".a.h5ad.values"
    opened = open_h5ad(tmp_path / "a.h5ad")
    file.unlink() if damage == "gone" else os.truncate(file, 100)
    message = r"\.a\.h5ad\.values: " + ("no such file" if damage == "gone" else "damaged: not of the size")
    with pytest.raises(ContractError, match=message):
        read_h5ad(tmp_path / "a.h5ad")
    if damage == "gone":
        with pytest.raises(ContractError, match=message):
            write_h5ad(opened, tmp_path / "b.h5ad")
        assert not (tmp_path / "b.h5ad").exists()


def test_values_of_another_time_are_replaced_or_removed(tmp_path: Path) -> None:
    write_h5ad(profiles(), tmp_path / "a.h5ad")
    other = profiles(5)
    write_h5ad(other, tmp_path / "a.h5ad")
    np.testing.assert_array_equal(read_h5ad(tmp_path / "a.h5ad").X, other.X)
    write_h5ad(open_h5ad(tmp_path / "a.h5ad")[2:].copy(), tmp_path / "a.h5ad")  # over itself
    np.testing.assert_array_equal(read_h5ad(tmp_path / "a.h5ad").X, other.X[2:])
    assert hidden(tmp_path) == {".a.h5ad.values"}
    other.uns["trueshift"]["kind"] = "lognorm"
    write_h5ad(other, tmp_path / "a.h5ad")
    assert not hidden(tmp_path)


def test_without_links_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_h5ad(profiles(), tmp_path / "a.h5ad")

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", no_link)
    write_h5ad(open_h5ad(tmp_path / "a.h5ad"), tmp_path / "b.h5ad")
    assert not (tmp_path / ".a.h5ad.values").samefile(tmp_path / ".b.h5ad.values")
    np.testing.assert_array_equal(read_h5ad(tmp_path / "b.h5ad").X, profiles().X)


# --- the road: the same whether values are apart or in memory -----------------------------------------

SPLIT = {"type": "unseen_perturbation", "k": 3, "validation": 0.2}


def pickles(folder: Path) -> None:
    rng = np.random.default_rng(1)
    n = 60
    facts = pd.DataFrame({"sig_id": [f"s{i}" for i in range(n)], "idx": np.arange(n)})
    facts["pert_id"], facts["cell_id"] = [f"d{i % 6}" for i in range(n)], [f"line{i // 30}" for i in range(n)]
    facts["pert_idose"], facts["smiles"] = "1", "C"
    treated, control = rng.normal(8, 1, (2, n, G)).astype("f4")
    control = control[np.arange(n) // 5 * 5]
    treated[30] = treated[9]  # equal rows, one of them tested and one trained on
    treated[12] = 0
    treated[20, 4] = -0.0
    for name, table in {"treated": treated, "control": control}.items():
        frame = pd.concat([facts, pd.DataFrame(table, columns=[f"G{i}" for i in range(G)])], axis=1)
        frame.to_pickle(folder / f"{name}.pkl")


def road(folder: Path, few_genes: bool, apart: bool) -> tuple[list[pd.DataFrame], list[ad.AnnData]]:
    source = {"format": "pickled", "treated": str(folder / "treated.pkl"), "control": str(folder / "control.pkl")}
    columns = {"perturbation": {"from": "pert_id", "control": "control"}, "context": "cell_id", "dose": "pert_idose"}
    columns |= {"control_id": "control_id"}
    settings = {"kind": "profile", "source": source, "columns": columns}
    with values.scratch(folder / "0.h5ad") as scratch:
        data = load("set", settings, folder, log=lambda _: None, values=scratch if apart else None)
        if apart:
            assert values.are_apart(data)
            write_h5ad(data, folder / "0.h5ad")
    if apart:
        data = open_h5ad(folder / "0.h5ad")
    assert values.are_apart(data) == apart
    found = found_in(data, "MT-")
    kept, _ = quality_control(data, {"min_genes": 1}, found)
    assert kept.n_obs == data.n_obs - 1 and kept.obs_names[11] != data.obs_names[12]
    data = normalize(kept, {})
    split = make_split(data.obs, SPLIT, "1")
    genes = select_genes(data, split, {"flavor": "all"})
    if few_genes:
        genes["selected"] = np.arange(G) % 2 == 0
    parts = partition(data, split, genes, {"split": SPLIT})
    assert all(values.are_apart(part) == apart for part in parts)
    leaks = audit(parts[0], parts[2], SPLIT)
    for name, part in zip("abc", parts, strict=True):
        write_h5ad(part, folder / f"{name}.h5ad")
    read = [read_h5ad(folder / f"{name}.h5ad") for name in "abc"]
    return [found.cells, pd.DataFrame(found.genes), split, genes, leaks], read


@pytest.mark.parametrize("few_genes", [False, True])
def test_every_stage_gives_the_same(tmp_path: Path, few_genes: bool) -> None:
    pickles(tmp_path)
    tables, parts = road(tmp_path, few_genes, apart=True)
    assert hidden(tmp_path) == {f".{name}.h5ad.values" for name in "0abc"}
    expected_tables, expected = road(tmp_path, few_genes, apart=False)
    for table, other in zip(tables, expected_tables, strict=True):
        pd.testing.assert_frame_equal(table, other)
    duplicates = tables[-1].set_index("unit").loc["duplicate expression row"]
    assert duplicates["n_both"] == 1
    for part, other in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.X, other.X)
        pd.testing.assert_frame_equal(part.obs, other.obs)
        pd.testing.assert_frame_equal(part.var, other.var)
