"""The import script as users' jobs run it: a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import command, listed

from trueshift.contract import check_canonical, read_h5ad

ROOT = Path(__file__).parents[2]
SMALL = {"format": "simulate", "genes": 30, "perturbations": 3, "combinations": 2, "cells_per_condition": 5}


def import_data(folder: Path, settings: dict) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(ROOT / "workflow/scripts/import_data.py"), "--name", "demo"]
    options = ["--settings", json.dumps(settings), "--data-folder", str(folder), "--out", str(folder / "out.h5ad")]
    options += ["--features", str(folder / "features.csv")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)


def test_writes_canonical_data(tmp_path: Path) -> None:
    done = import_data(tmp_path, {"kind": "counts", "source": SMALL, "features": {"programs": "simulated"}})
    assert done.returncode == 0, done.stderr
    data = read_h5ad(tmp_path / "out.h5ad")
    check_canonical(data, "out.h5ad")
    assert data.shape == (3 * 5 * 5 + 3 * 2 * 200, 30)
    assert "1275 cells × 30 genes, 3 contexts" in done.stdout
    assert listed(tmp_path) == ["features.csv", "out.h5ad"]
    assert (tmp_path / "features.csv").read_text().splitlines()[1:] == ["demo,programs,5,3,3,"]


def test_the_tables_of_all_datasets_are_one(tmp_path: Path) -> None:
    header = "dataset,features,n_features,n_perturbations,n_covered,missing"
    rows = {"a": ["a,structures,,3,2,x", 'a,kpgt,2304,3,1,"x, y"'], "b": [], "c": ["c,morgan,2048,2,2,"]}
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    command("features", "--features", "a.csv", "b.csv", "c.csv", "--out", "all.csv", folder=tmp_path)
    assert (tmp_path / "all.csv").read_text().splitlines() == [header, *rows["a"], *rows["c"]]
    command("features", "--features", "b.csv", "--out", "none.csv", folder=tmp_path)
    assert (tmp_path / "none.csv").read_text().splitlines() == [header]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "lognorm", "source": SMALL}, "look like counts"),
        ({"kind": "counts", "source": {"format": "h5ad", "path": "{data}/absent.h5ad"}}, "absent.h5ad: no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_output(tmp_path: Path, settings: dict, message: str) -> None:
    done = import_data(tmp_path, settings)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
