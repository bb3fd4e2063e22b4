"""How long Snakemake plans: ten datasets × five splits × fifteen models × five seeds, beside a bare DAG.

    .venv/bin/python benchmarks/dag.py

Nothing is computed: every figure is a ``snakemake -n``. The bare DAG has the same jobs and edges from import to scores
and nothing else. The dressed one adds what any rule of a real workflow has, as constants: names of files, logs,
parameters, resources, a command line. What is above that is what reading the configuration, hashing the code and
answering for each job cost.
"""

import argparse
import copy
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "workflow", "src", "config", "envs", "profiles")
MODELS = ["no_change", "mean_shift", "train_mean", "context_mean", "perturbation_mean", "condition_mean", "additive"]
MODELS += ["linear", "ridge_control", "ridge_features", "knn_features", "scgen", "biolord", "state", "state_features"]
FOLD, CHAIN = "{dataset}/{split}/one", "{dataset}/{split}/one/{model}/{seed}"
ROAD = {  # rule: what it reads, what it writes
    "import_data": ([], ["{dataset}/imported"]),
    "qc": (["{dataset}/imported"], ["{dataset}/qc"]),
    "normalize": (["{dataset}/qc"], ["{dataset}/normalized"]),
    "split": (["{dataset}/normalized"], [f"{FOLD}/split"]),
    "select_genes": (["{dataset}/normalized", f"{FOLD}/split"], [f"{FOLD}/genes"]),
    "partition": (
        ["{dataset}/normalized", f"{FOLD}/genes"],
        [f"{FOLD}/{name}" for name in ("train", "query", "truth")],
    ),
    "pair": ([f"{FOLD}/train"], [f"{FOLD}/pairs"]),
    "reference": ([f"{FOLD}/truth", f"{FOLD}/train"], [f"{FOLD}/stats"]),
    "ceiling": ([f"{FOLD}/stats"], [f"{FOLD}/ceiling"]),
    "train": ([f"{FOLD}/train", f"{FOLD}/pairs"], [f"{CHAIN}/model", f"{CHAIN}/train_cost"]),
    "predict": ([f"{CHAIN}/model", f"{FOLD}/query"], [f"{CHAIN}/prediction", f"{CHAIN}/predict_cost"]),
    "score": ([f"{CHAIN}/prediction", f"{FOLD}/truth", f"{FOLD}/stats"], [f"{CHAIN}/scores"]),
}


class Plan(NamedTuple):
    """A dry run: seconds from start to end, peak memory in MB, and how many jobs it planned."""

    seconds: float
    memory: float
    jobs: int


def dry_run(folder: Path, *arguments: str) -> Plan:
    """Plans in a folder, quietly; memory is that of the largest dry run so far."""
    command = [ROOT / ".venv/bin/snakemake", *arguments, "-n", "--quiet", "rules", "host"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    total = [line.split()[-1] for line in (done.stdout + done.stderr).splitlines() if line.strip().startswith("total")]
    return Plan(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, int(total[0]))


def ours(folder: Path, datasets: int, splits: int, seeds: int) -> None:
    """A copy of the project whose configuration asks for everything on every dataset; data need not exist to plan."""
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    entry = copy.deepcopy(yaml.safe_load((ROOT / "config/datasets.yaml").read_text())["datasets"]["simulated"])
    split = {"type": "file", "folds": {"one": "roles.csv"}, "asks": "seen"}
    entry["splits"] = {f"split{number}": split for number in range(splits)}
    names = [f"dataset{number}" for number in range(datasets)]
    run = {"datasets": names, "models": MODELS, "seeds": list(range(seeds))}
    config = {"run": run, "datasets": dict.fromkeys(names, entry)}
    (folder / "scale.json").write_text(json.dumps(config))


def bare(folder: Path, datasets: int, splits: int, seeds: int, dressed: bool = False) -> None:
    """The same road without anything that is ours; deterministic models have one seed there too."""
    models = yaml.safe_load((ROOT / "config/models.yaml").read_text())["models"]
    drawn = {model: range(1 if models[model].get("deterministic") else seeds) for model in MODELS}
    chains = [
        CHAIN.format(dataset=f"dataset{d}", split=f"split{s}", model=model, seed=seed)
        for d, s in itertools.product(range(datasets), range(splits))
        for model, numbers in drawn.items()
        for seed in numbers
    ]
    (folder / "chains.txt").write_text("\n".join(chains))
    wanted = 'CHAINS = open("chains.txt").read().split()\n\nrule all:\n    input: [f"{c}/scores" for c in CHAINS], '
    wanted += '[f"{c}/train_cost" for c in CHAINS], [f"{c}/predict_cost" for c in CHAINS],'
    wanted += ' sorted({c.rsplit("/", 2)[0] + "/ceiling" for c in CHAINS})\n'
    rules = "".join(rule(name, reads, writes, dressed) for name, (reads, writes) in ROAD.items())
    (folder / "Snakefile").write_text(wanted + rules)


def rule(name: str, reads: list[str], writes: list[str], dressed: bool) -> str:
    """The text of a rule; ``dressed`` with what any rule of a real workflow has, all of it constant."""
    files = {"input": reads, "output": writes}
    lines = [f"rule {name}:"]
    for directive, paths in files.items():
        named = [f"{'f' + str(i) + '=' if dressed else ''}{path!r}" for i, path in enumerate(paths)]
        lines += [f"    {directive}: {', '.join(named)}"] if named else []
    command = "touch {output}"
    if dressed:
        lines.append(f"    log: {'logs/' + writes[0]!r}")
        lines.append("    resources: mem_mb=2000, gpu=0")
        lines.append("    params: code='0123456789ab', settings='{}'")
        shown = " ".join(f"--f{i} {{input.f{i}:q}}" for i in range(len(reads)))
        command = f"python {name}.py {shown} --settings {{params.settings:q}} --out {{output.f0:q}} > {{log:q}} 2>&1"
    return "\n" + "\n".join([*lines, f"    shell: {command!r}"]) + "\n"


def main() -> None:
    """Plans both in turn, several times, and prints the best of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=10)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()

    size = (args.datasets, args.splits, args.seeds)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "bare DAG": Path(folder, "bare"),
            "dressed DAG": Path(folder, "dressed"),
            "Trueshift": Path(folder, "ours"),
        }
        for path in sides.values():
            path.mkdir()
        bare(sides["bare DAG"], *size)
        bare(sides["dressed DAG"], *size, dressed=True)
        ours(sides["Trueshift"], *size)
        words = {side: ["--cores", "8"] for side in sides}
        words["Trueshift"] += ["--configfile", "scale.json"]
        plans: dict[str, list[Plan]] = {side: [] for side in sides}
        for _ in range(args.repeats):
            for side, path in sides.items():
                plans[side].append(dry_run(path, *words[side]))
        target = "results/dataset0/split0/one/state/S256/seed0/scores.parquet"
        one = min(dry_run(sides["Trueshift"], target, *words["Trueshift"]) for _ in range(args.repeats))
    best = {side: min(runs) for side, runs in plans.items()}
    every = args.datasets * args.splits * len(MODELS) * args.seeds
    print(f"{args.datasets} datasets × {args.splits} splits × {len(MODELS)} models × {args.seeds} seeds = {every} runs")
    for side, plan in best.items():
        ratio = best["Trueshift"].seconds / plan.seconds
        jobs = f"{plan.jobs} jobs, {1000 * plan.seconds / plan.jobs:.2f} ms each"
        print(f"{side:12} {plan.seconds:6.1f} s  {jobs}  Trueshift takes {ratio:.2f} times that")
    memory = max(plan.memory for plan in best.values())
    print(f"one target {one.seconds:.1f} s, {one.jobs} jobs; largest process {memory:.0f} MB")


if __name__ == "__main__":
    main()
