"""From a pickled pair of the size of LINCS to pairs for training: time and peak memory of every stage.

    PYTHON benchmarks/lincs_scale.py
    PYTHON benchmarks/lincs_scale.py --scale 0.1 --layout rows

with the Python of the environment data (``.venv/bin/python tests/prefix.py data`` says where it is).

Makes a treated and a control table of 182,246 profiles × 10,716 genes, float32, with metadata (``--scale`` takes a
share of the profiles), pickles them as pandas does, and runs the stages as the workflow does, each a process of its
own, one after the other. Peak memory is the largest resident set of a process, pages of mapped files among them; it
is printed beside its bound, 20 GiB for the whole table, as a multiple of one table's bytes. There is no bound on time.
What was made is removed at the end.

With ``--models`` the baselines are then fitted, asked and scored.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PROFILES, GENES = 182_246, 10_716
LINES = ("A375", "A549", "BT20", "HT29", "MCF7", "MDAMB231", "PC3", "VCAP", "HELA")
DOSES = ("0.12 uM", "10 uM")
REPLICATES = 15  # of a drug at a dose in a line
DISTINCT = 0.05  # of the control profiles
SMALLEST = 0.07  # of the profiles: from here on the stages keep values apart
BOUND = 20.0  # GiB of memory for the whole table
SPLIT = {"type": "unseen_perturbation", "k": 5}
FOLD = "1"
SETTINGS: dict[str, Any] = {
    "kind": "profile",
    "source": {"format": "pickled", "treated": "{data}/treated.pkl", "control": "{data}/control.pkl"},
    "columns": {
        "perturbation": {"from": "pert_id", "control": "control", "separator": None},
        "context": "cell_id",
        "dose": {"from": "pert_idose", "unit": "uM"},
        "modality": {"value": "drug"},
        "control_id": "control_id",
        "smiles": "smiles",
        "keep": ["idx"],
    },
}
BASELINES = ("no_change", "mean_shift", "train_mean", "ridge_control", "perturbation_mean")
ONLY_FITTED = ("perturbation_mean",)  # it has no answer for drugs it never saw, and the split asks for no other
METRICS = {"metrics": ["r2_topk", "pearson_delta", "pds_l1", "rmse"], "k": ["20", "40", "80"], "seed": 0}


class Stage(NamedTuple):
    """A script with its options and the files it writes."""

    name: str
    options: dict[str, Any]
    writes: list[str]


class Run(NamedTuple):
    """What a process took; ``memory`` is its largest resident set in GiB."""

    seconds: float
    cpu: float
    memory: float


# --- the made table -----------------------------------------------------------------------------------


def make(folder: Path, scale: float, layout: str) -> None:
    """Writes ``treated.pkl`` and ``control.pkl``, in memory one after the other."""
    rng = np.random.default_rng(0)
    n = round(PROFILES * scale)
    drugs = max(10, n // (len(LINES) * len(DOSES) * REPLICATES))
    line, drug, dose = (rng.integers(size, size=n) for size in (len(LINES), drugs, len(DOSES)))
    level = rng.uniform(4, 12, GENES).astype(np.float32)
    facts = pd.DataFrame({"sig_id": [f"LINCS:{i:06d}" for i in range(n)], "idx": np.arange(n)})
    facts["pert_id"] = [f"BRD-{i:04d}" for i in drug]
    facts["cell_id"] = [LINES[i] for i in line]
    facts["pert_idose"] = [DOSES[i] for i in dose]
    facts["smiles"] = [f"{'C' * (i % 27 + 1)}c1ccc({'C' * (i // 27 + 1)}O)cc1" for i in drug]
    own = np.empty(n, dtype=np.int64)  # the distinct control of each profile, one of its line
    first = 0
    for i in range(len(LINES)):
        rows = np.flatnonzero(line == i)
        pool = max(2, round(DISTINCT * len(rows)))
        own[rows] = first + rng.integers(pool, size=len(rows))
        first += pool
    seeds = {"treated": 1, "control": 2}
    for name, seed in seeds.items():
        values = np.empty((n, GENES) if layout == "rows" else (GENES, n), dtype=np.float32)
        by_gene = values.T if layout == "rows" else values
        draws = np.random.default_rng(seed)
        for start in range(0, GENES, 512):
            some = slice(start, min(start + 512, GENES))
            noise = draws.random((some.stop - start, n if name == "treated" else first), dtype=np.float32)
            by_gene[some] = level[some, None] + (noise if name == "treated" else noise[:, own])
        frame = pd.DataFrame(by_gene.T, columns=[f"GENE{i:05d}" for i in range(GENES)], copy=False)
        for place, column in enumerate(facts):
            frame.insert(place, column, facts[column])
        frame.to_pickle(folder / f"{name}.pkl")
        del frame, values, by_gene


# --- the stages ---------------------------------------------------------------------------------------


def stages() -> list[Stage]:
    """In the order of the workflow. Values of an artefact are a hidden file beside it, linked from stage to stage."""
    fold = {"settings": {"split": SPLIT}, "data": "normalized.h5ad", "split": "split.csv", "genes": "genes.csv"}
    parts = {name: f"{name}.h5ad" for name in ("train", "query", "truth")}
    values = ".imported.h5ad.values"
    return [
        Stage(
            "import_data",
            {"name": "lincs", "settings": SETTINGS, "data_folder": ".", "out": "imported.h5ad", "features": "f.csv"},
            ["imported.h5ad", values, "f.csv"],
        ),
        Stage(
            "qc",
            {"data": "imported.h5ad", "settings": {}, "out": "qc.h5ad", "report": "qc.json", "figure": "qc.png"},
            ["qc.h5ad", "qc.json", "qc.png"],
        ),
        Stage(
            "normalize",
            {"data": "qc.h5ad", "settings": {}, "out": "normalized.h5ad"},
            ["normalized.h5ad"],
        ),
        Stage(
            "split",
            {"data": "normalized.h5ad", "settings": SPLIT, "fold": FOLD, "out": "split.csv"},
            ["split.csv"],
        ),
        Stage(
            "select_genes",
            {"data": "normalized.h5ad", "split": "split.csv", "settings": {"flavor": "all"}, "out": "genes.csv"},
            ["genes.csv"],
        ),
        Stage(
            "partition",
            {**fold, **parts, "leaks": "leaks.csv"},
            [*parts.values(), "leaks.csv"],
        ),
        Stage(
            "pair",
            {"train": "train.h5ad", "set_size": 8, "seed": 0, "out": "pairs.npz"},
            ["pairs.npz"],
        ),
    ]


def run_script(python: Path, folder: Path, name: str, options: dict[str, Any]) -> Run:
    """Runs a script as its rule does; ends the benchmark if it fails."""
    command = [str(python), "-P", str(ROOT / f"workflow/scripts/{name}.py")]
    for key, value in options.items():
        command += [f"--{key.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else str(value)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    log = folder / f"{name}.log"
    with log.open("w") as file:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed with status {process.returncode}:\n{log.read_text()[-3000:]}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / (1 << 20))


def measure(folder: Path, python: Path) -> pd.DataFrame:
    """Runs all stages; a row each: seconds, seconds of CPU, GiB of memory, and GB of what it wrote."""
    rows = []
    for stage in stages():
        run = run_script(python, folder, stage.name, stage.options)
        rows.append((stage.name, *run, sum((folder / name).stat().st_size for name in stage.writes) / 1e9))
    return pd.DataFrame(rows, columns=["stage", "seconds", "CPU", "GiB", "GB written"])


# --- models -------------------------------------------------------------------------------------------


def baselines(folder: Path, models: Path, evaluation: Path) -> pd.DataFrame:
    """Fits, asks and scores them; a row for each script: seconds, seconds of CPU and GiB of memory."""
    options = {"truth": "truth.h5ad", "train": "train.h5ad", "settings": METRICS, "out": "truth_stats.parquet"}
    rows = [("reference", "", *run_script(evaluation, folder, "reference", options))]
    for name in BASELINES:
        classes = "".join(part.capitalize() for part in name.split("_"))
        settings = {"class": f"trueshift.models.{name}.{classes}", "params": {}, "needs": []}
        tracking = {"wandb": "disabled", "project": "trueshift"}
        common = {"settings": settings, "seed": 0, "cost": f"{name}.json"}
        train = {"train": "train.h5ad", "tracking": tracking, "resume": f"{name}_resume", "out": name}
        rows.append(("train", name, *run_script(models, folder, "train", {**common, **train})))
        if name in ONLY_FITTED:
            continue
        ask = {"model": name, "query": "query.h5ad", "out": f"{name}.h5ad"}
        rows.append(("predict", name, *run_script(models, folder, "predict", {**common, **ask})))
        labels = f"dataset=lincs,split=s,fold=1,model={name},variant=default,seed=0"
        truth = {"truth": "truth.h5ad", "truth_stats": "truth_stats.parquet", "settings": METRICS, "labels": labels}
        score = {"prediction": f"{name}.h5ad", **truth, "out": f"{name}.parquet"}
        rows.append(("score", name, *run_script(evaluation, folder, "score", score)))
    return pd.DataFrame(rows, columns=["script", "model", "seconds", "CPU", "GiB"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the 182,246 profiles")
    parser.add_argument("--layout", choices=("columns", "rows"), default="columns", help="how pandas holds the table")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/benchmarks/lincs")
    parser.add_argument("--python", type=Path, help="for all scripts; by default that of the environment of each")
    parser.add_argument("--models", action="store_true", help="also fit, ask and score the baselines")
    parser.add_argument("--make", action="store_true", help="make the tables, do nothing else")
    parser.add_argument("--keep", action="store_true", help="leave what was made")
    args = parser.parse_args()
    if args.scale < SMALLEST:
        parser.error(f"--scale {args.scale}: a table below {SMALLEST} is not large, and goes another way")
    sys.path.insert(0, str(ROOT / "tests"))
    from prefix import prefix

    pythons = {name: args.python or prefix(name) / "bin/python" for name in ("data", "baselines", "evaluation")}
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if args.make:
        make(folder, args.scale, args.layout)
        return
    try:
        # a process of its own: what its parent once held counts as the memory of a child
        subprocess.run([sys.executable, __file__, "--make", *sys.argv[1:]], check=True)
        print(f"{round(PROFILES * args.scale):,} profiles × {GENES:,} genes, held by {args.layout}")
        print(f"busy with other work before the start: {os.getloadavg()[0]:.1f} of {os.cpu_count()} CPUs", flush=True)
        table = measure(folder, pythons["data"])
        print(table.to_string(index=False, float_format="{:.2f}".format))
        peak, size = table["GiB"].max(), 4 * GENES * round(PROFILES * args.scale) / 2**30
        bound = f" (bound {BOUND:.0f} GiB: {'kept' if peak <= BOUND else 'EXCEEDED'})" if args.scale == 1 else ""
        print(
            f"together {table['seconds'].sum():.1f} s; peak {peak:.2f} GiB{bound}, {peak / size:.2f} × one table",
            flush=True,
        )
        table.to_csv(folder / "stages.csv", index=False)
        if args.models:
            table = baselines(folder, pythons["baselines"], pythons["evaluation"])
            print(table.to_string(index=False, float_format="{:.2f}".format), flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
