"""A part of LINCS goes from pickles to pairs in bounded memory, and keeps its values; time is only printed."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import ROOT

from trueshift import values
from trueshift.contract import open_h5ad, read_pairs
from trueshift.data.pickles.tables import read_table

SCALE, GENES = 0.07, 10_716  # the smallest that is large
PROGRAM = ROOT / "benchmarks/lincs_scale.py"


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_a_part_of_lincs(tmp_path: Path, layout: str) -> None:
    if shutil.disk_usage(tmp_path).free < 5e9:
        pytest.skip("NEEDS 5 GB of disk")
    made = [sys.executable, PROGRAM, "--make", "--scale", str(SCALE), "--layout", layout, "--folder", tmp_path]
    subprocess.run(made, check=True)

    # in an interpreter of its own: the peak of a process counts what its parent held when it was started
    code = "import lincs_scale, pathlib, sys; print(lincs_scale.measure(*map(pathlib.Path, sys.argv[1:])).to_csv())"
    command = [sys.executable, "-c", code, tmp_path, sys.executable]
    done = subprocess.run(command, cwd=PROGRAM.parent, check=True, stdout=subprocess.PIPE, text=True)
    table = pd.read_csv(io.StringIO(done.stdout[done.stdout.index(",stage") :])).set_index("stage")
    print(table)
    size = 4 * GENES * SCALE * 182_246 / 2**30
    assert table.loc["import_data", "GiB"] < 2.2 * size + 0.3  # one file at a time, and the interpreter
    assert (table.drop(index="import_data")["GiB"] < 0.6).all()  # interpreter, libraries and blocks
    assert table["GB written"].sum() < 1.1 * (1.05 * size * 1.074) + 0.1  # values are written once

    treated = read_table(tmp_path / "treated.pkl").columns
    ids = list(treated["sig_id"])
    expected = {gene: treated[gene] for gene in ("GENE00000", "GENE05000", "GENE10715")}
    for name in ("train", "truth"):
        part = open_h5ad(tmp_path / f"{name}.h5ad")
        assert values.are_apart(part)
        rows = np.flatnonzero(~part.obs["is_control"])[[0, 1, 1000, -1]]
        found = values.matrix_of(part, rows)
        for gene, column in expected.items():
            source = [column[ids.index(cell)] for cell in part.obs_names[rows]]
            np.testing.assert_array_equal(found[:, part.var_names.get_loc(gene)], source)
    pairs = read_pairs(tmp_path / "pairs.npz")
    assert pairs.perturbed.max() < open_h5ad(tmp_path / "train.h5ad").n_obs
