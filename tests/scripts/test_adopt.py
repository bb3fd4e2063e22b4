"""The command line of adopt.py: a stranger's file becomes the prediction that scoring reads."""

import subprocess
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import script
from scipy import sparse

from trueshift.contract import check_prediction, make_prediction, read_h5ad, write_h5ad

COLUMNS = {"context": "line", "perturbation": "guide", "dose": None}
SETTINGS = {"columns": COLUMNS, "control": "NTC", "genes": "symbol", "layer": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """query.h5ad, asking two conditions, and the same predicted cells as ours.h5ad and theirs.h5ad."""
    made = tmp_path_factory.mktemp("adopt")
    rng = np.random.default_rng(0)
    rate = rng.gamma(1, 3, 40) + 0.1
    cells = np.log1p(rng.poisson(rate * np.repeat(np.exp(rng.normal(0, 0.5, (3, 40))), 60, axis=0))).astype(np.float32)
    table = pd.DataFrame({"context": "K562", "perturbation": ["A", "B"], "dose": "1", "modality": "KO"})
    obs = pd.DataFrame({"context": "K562", "perturbation": "control", "dose": "0"}, index=[f"c{i}" for i in range(60)])
    genes = pd.DataFrame(index=[f"g{i:02d}" for i in range(40)])
    uns = {"conditions": table.assign(n_cells=60, n_seen=0), "trueshift": {"schema_version": 1, "kind": "lognorm"}}
    query = ad.AnnData(sparse.csr_matrix(cells[:60]), obs=obs, var=genes, uns=uns)
    write_h5ad(query, made / "query.h5ad")
    ours = make_prediction(query, cells[60:], np.repeat([0, 1], 60))
    write_h5ad(ours, made / "ours.h5ad")
    theirs = ad.AnnData(ours.X, var=pd.DataFrame({"symbol": genes.index}, index=[f"row{i}" for i in range(40)]))
    theirs.obs["line"], theirs.obs["guide"] = "K562", ["A+NTC"] * 60 + ["B"] * 60
    theirs = theirs[:, rng.permutation(40)]
    write_h5ad(theirs[np.r_[60:120, :60]].copy(), made / "theirs.h5ad")
    return made


def adopt(folder: Path, **changed: Any) -> subprocess.CompletedProcess[str]:
    arguments = {
        "file": "theirs.h5ad",
        "query": "query.h5ad",
        "settings": SETTINGS,
        "fold": "1",
        "out": "prediction.h5ad",
    }
    return script("adopt", folder, **(arguments | changed))


def test_their_file_becomes_our_prediction(folder: Path) -> None:
    done = adopt(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "genes are in another order than asked: matched by name",
        "no row has a control label (NTC, control); none is needed",
        "1 labels are read by their components, first A+NTC as A",
        "60 to 60 rows per condition: these are cells",
        "120 rows × 40 genes",
    ]
    adopted, ours, query = (read_h5ad(folder / f"{name}.h5ad") for name in ("prediction", "ours", "query"))
    check_prediction(adopted, query, "prediction.h5ad")
    np.testing.assert_array_equal(adopted.X, ours.X)
    assert adopted.obs.equals(ours.obs)


def test_mistakes_are_one_line_and_leave_nothing(folder: Path) -> None:
    (folder / "notes.h5ad").write_text("gene,value\n")
    for changed, message in (
        ({"file": "none.h5ad"}, "error: none.h5ad: no such file"),
        ({"file": "notes.h5ad"}, "error: notes.h5ad: is no h5ad (not HDF5); save the predictions with"),
        (
            {"settings": {"columns": COLUMNS}},
            "error: theirs.h5ad: 40 of 40 genes asked are missing, first g00, g01, g02; ",
        ),
        (
            {"settings": SETTINGS | {"control": "ctrl"}},
            "1 of 2 conditions asked are missing, first K562 | A | 1; no label",
        ),
        ({"settings": SETTINGS | {"colums": {}}}, "theirs.h5ad: no setting colums; did you mean columns?"),
    ):
        done = adopt(folder, out="never.h5ad", **changed)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert message in done.stderr
    assert not (folder / "never.h5ad").exists()
