"""The command lines from quality control to pairs, one after the other on a small screen."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import ROOT, script
from scipy import sparse

import trueshift.data.partition
from trueshift.contract import read_h5ad, read_pairs, read_table
from trueshift.data.normalize import normalize
from trueshift.data.splitting import make_split

SPLIT = {"type": "zero_shot_context", "folds": {"second": "c1"}, "validation": 0.2}


def screen() -> ad.AnnData:
    labels = ["control"] * 12 + ["G0"] * 8 + ["G1"] * 8
    rows = [(label, context, batch) for context in ("c0", "c1") for batch in ("b0", "b1") for label in labels]
    obs = pd.DataFrame(rows, columns=["perturbation", "context", "batch"])
    obs.index = pd.Index([f"{i:04d}" for i in range(len(obs))])  # ids that look like numbers
    obs["modality"], obs["is_control"] = "KO", obs["perturbation"] == "control"
    obs["dose"] = np.where(obs["is_control"], "0", "1")
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 1.5, size=(len(obs), 50))).astype(np.float32)
    return ad.AnnData(
        sparse.csr_matrix(counts),
        obs=obs,
        var=pd.DataFrame(index=[f"G{i}" for i in range(50)]),
        uns={"trueshift": {"schema_version": 1, "dataset": "small", "kind": "counts"}},
    )


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    screen().write_h5ad(tmp_path / "imported.h5ad")
    return tmp_path


def test_the_road_from_qc_to_pairs(imported: Path) -> None:
    thresholds = {"min_genes": 5, "min_cells": 5}
    steps: list[tuple[str, dict[str, Any]]] = [
        (
            "qc",
            {
                "data": "imported.h5ad",
                "settings": thresholds,
                "out": "qc.h5ad",
                "report": "qc.json",
                "figure": "qc.png",
            },
        ),
        ("normalize", {"data": "qc.h5ad", "settings": {"target_sum": "median"}, "out": "normalized.h5ad"}),
        ("split", {"data": "normalized.h5ad", "settings": SPLIT, "fold": "second", "out": "f/split.csv"}),
        (
            "select_genes",
            {"data": "normalized.h5ad", "split": "f/split.csv", "settings": {"n_top": 20}, "out": "f/genes.csv"},
        ),
        (
            "partition",
            {
                "data": "normalized.h5ad",
                "split": "f/split.csv",
                "genes": "f/genes.csv",
                "settings": {"split": SPLIT},
                "train": "f/train.h5ad",
                "query": "f/query.h5ad",
                "truth": "f/truth.h5ad",
                "leaks": "f/leaks.csv",
            },
        ),
        ("pair", {"train": "f/train.h5ad", "set_size": 4, "seed": 1, "out": "f/pairs_S4.npz"}),
    ]
    said = {}
    for name, arguments in steps:
        done = script(name, imported, **arguments)
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout
    written = {str(path.relative_to(imported)) for path in imported.rglob("[!.]*") if path.is_file()}
    outputs = {
        str(a[key])
        for _, a in steps
        for key in ("out", "report", "figure", "train", "query", "truth", "leaks")
        if key in a
    }
    assert written == outputs | {"imported.h5ad"}
    assert "cells: 112 before, 112 kept" in said["qc"]
    assert "(the median) per cell by the cell's total" in said["normalize"]
    assert "controls of c1: 12 input, 12 reference" in said["split"]
    assert "20 hvg" in said["select_genes"]
    assert "conditions asked: 2" in said["partition"]
    assert "on both sides: perturbation: 2 of 2, first G0, G1; shared as the split says" in said["partition"]
    assert "33.3% of the places in sets are padding" in said["pair"]
    leaks = read_table(imported / "f" / "leaks.csv").set_index("unit")
    assert list(leaks.loc["context", ["promised", "n_both", "verdict"]]) == ["held out", 0, "ok"]
    train, query, truth = (read_h5ad(imported / "f" / f"{part}.h5ad") for part in ("train", "query", "truth"))
    assert set(truth.obs["role"]) == {"test", "control_reference", "control_input"}
    assert list(query.uns["conditions"]["perturbation"]) == ["G0", "G1"]
    assert {"G0", "G1"} <= set(train.var_names)
    pairs = read_pairs(imported / "f" / "pairs_S4.npz")
    assert set(pairs.context) == {"c0"} and pairs.perturbed.max() < train.n_obs


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "qc",
            {"settings": {"min_genes": 49}, "out": "o.h5ad", "report": "o.json", "figure": "o.png"},
            "fewer than min_genes: 49 genes",
        ),
        ("normalize", {"settings": {"target_sun": 1}, "out": "o.h5ad"}, "did you mean target_sum"),
        ("split", {"settings": SPLIT, "fold": "secnd", "out": "o.csv"}, "no fold secnd; did you mean second"),
        ("select_genes", {"split": "none.csv", "settings": {}, "out": "o.csv"}, "none.csv: no such file"),
        (
            "partition",
            {
                "split": "bad.csv",
                "genes": "g.csv",
                "settings": {"split": SPLIT},
                "train": "t",
                "query": "q",
                "truth": "r",
                "leaks": "l",
            },
            "of the data have no role",
        ),
        ("pair", {"set_size": 0, "seed": 0, "out": "o.npz"}, "give 1 or more"),
    ],
)
def test_a_failing_script_says_one_line_and_leaves_nothing(
    imported: Path, name: str, arguments: dict[str, Any], message: str
) -> None:
    data = imported / "imported.h5ad"
    (imported / "bad.csv").write_text("cell,role\n1,train\n")
    (imported / "g.csv").write_text("gene,selected,reason,flavor\nG0,True,all,all\n")
    if name == "pair":
        adata = screen()
        adata.obs["role"] = "train"
        adata.write_h5ad(data)
    before = {path.name for path in imported.iterdir()}
    done = script(name, imported, **{"train" if name == "pair" else "data": data}, **arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert {path.name for path in imported.iterdir()} == before


def test_a_leak_stops_partition_before_anything_can_be_trained_on_it(
    imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = normalize(screen(), {})
    adata.write_h5ad(imported / "normalized.h5ad")
    split = make_split(adata.obs, SPLIT, "second")
    split.loc[split.index[split["role"] == "test"][0], "role"] = "train"
    split.to_csv(imported / "split.csv", index=False)
    pd.DataFrame({"gene": adata.var_names, "selected": True}).to_csv(imported / "genes.csv", index=False)
    # partition checks the split itself; here that check fails to see the leak, and the audit has to
    monkeypatch.setattr(trueshift.data.partition, "check_split", lambda *_: None)
    monkeypatch.chdir(imported)
    words = ["--data", "normalized.h5ad", "--split", "split.csv", "--genes", "genes.csv"]
    words += ["--settings", json.dumps({"split": SPLIT}), "--leaks", "leaks.csv"]
    for part in ("train", "query", "truth"):
        words += [f"--{part}", f"{part}.h5ad"]
    path = str(ROOT / "workflow" / "scripts" / "partition.py")
    monkeypatch.setattr(sys, "argv", [path, *words])
    with pytest.raises(SystemExit, match=r"error: split.csv: leak: 1 of 1 .*unit context .*first c1"):
        runpy.run_path(path, run_name="__main__")
    assert read_table("leaks.csv").set_index("unit").loc["context", "verdict"] == "leak"
    assert not {f"{part}.h5ad" for part in ("train", "query", "truth")} & {path.name for path in imported.iterdir()}
