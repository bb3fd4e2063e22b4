"""The benchmark's command on a small screen: it runs, and every metric that cell-eval has too agrees. Never times."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]

# Largest difference allowed after the conversion that the table names. float32 is what limits the first three and the
# truth's z; counts, places and shares of genes are exact.
EXACT = 1e-12
TOLERANCE = {
    "pearson_delta": 1e-6,
    "mse": 1e-6,
    "mae": 1e-6,
    "pds_l1": EXACT,
    "pds_l2": EXACT,
    "pds_cosine": EXACT,
    "vcc2025_pds": EXACT,
    "p, truth": 1e-6,
    "p, prediction": EXACT,
    "n_deg": EXACT,
    "predicted DEGs": EXACT,
    "de_recall": EXACT,
    "de_direction": EXACT,
    "effect_spearman": EXACT,
    "vcc2025_overlap": EXACT,
    "de_precision": EXACT,
    "de_overlap": EXACT,
    "de_overlap_topk @50": EXACT,
    "de_overlap_topk @100": EXACT,
    "de_pr_auc": EXACT,
    "de_roc_auc": EXACT,
    "(building block)": 1e-4,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the benchmark leaves, and what it prints."""
    out = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, ROOT / "benchmarks/scoring.py", "--cells", 600, "--genes", 120, "--perturbations", 5]
    command += ["--no-warm-up", "--ours", sys.executable, "--peer", sys.executable, "--out", out]
    shown = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return out, shown.stdout


@pytest.mark.parametrize("metric", TOLERANCE)
def test_agrees_with_cell_eval(metric: str, done: tuple[Path, str]) -> None:
    table = pd.read_csv(done[0] / "agreement.csv").set_index("ours")
    row = table.loc[metric]
    assert row["n"] >= 3
    assert row["converted"] <= TOLERANCE[metric], row["conversion"]


def test_every_common_metric_is_compared(done: tuple[Path, str]) -> None:
    table = pd.read_csv(done[0] / "agreement.csv")
    assert set(table["ours"]) == set(TOLERANCE)
    results = pd.read_csv(done[0] / "cell_eval_dense/results.csv", index_col="perturbation")
    theirs_alone = {"clustering_agreement", "de_spearman_sig", "mae_delta", "mse_delta"}
    cut_by_k = {f"{name}_at_{k}" for name in ("overlap", "precision") for k in (50, 100, 200, 500)}
    assert set(results) == set(table["cell_eval"]) - {"p_value of real", "p_value of pred"} | theirs_alone | cut_by_k


def test_prints_and_keeps_times_and_memory(done: tuple[Path, str]) -> None:
    out, shown = done
    times = json.loads((out / "times.json").read_text())
    assert list(times) == [
        "truth side",
        "first prediction, with truth side",
        "next prediction",
        "cell-eval, dense input",
        "cell-eval, sparse input",
    ]
    assert all(run["seconds"] > 0 and run["memory"] > 20 for run in times.values())
    for text in (*times, "600 cells × 120 genes", "5 perturbations", "only cell-eval has", "GFLOP", "import anndata"):
        assert text.replace("600", "660") in shown


def test_panel_times_every_metric_of_means(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/scoring.py"), "--panel", "40", "--genes", "60"]
    command += ["--ours", sys.executable, "--out", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for text in (
        "40 conditions × 60 genes",
        "pds_l1",
        "pds_cosine",
        "r2_topk",
        "spearman_delta",
        "bare matrix product",
    ):
        assert text in shown.stdout
    assert "e_distance" not in shown.stdout
