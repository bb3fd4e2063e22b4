"""Scores one simulated prediction with our command lines and with cell-eval: time, memory, and whether they agree.

    make benchmark
    .venv/bin/python benchmarks/scoring.py --cells 20000 --genes 2000 --perturbations 100
    .venv/bin/python benchmarks/scoring.py --panel 5000

Each run is a process of its own, from its start to its end, files read and written included. Before, all of them run
once on a small screen, so that files and what is compiled once are at hand; cell-eval compiles some of its functions
anew in every process. Both get the same number of threads, one unless ``--threads`` says otherwise: one is the default
of either, and a workflow runs as many jobs side by side as there are cores. Ours take seconds, so little that another
program of the machine can double them: of nine runs each, three before, three between and three after those of
cell-eval, the median counts. The last lines are what no scoring can go below on this machine.

With ``--panel`` no cells are made: that many conditions are scored by their mean expression in one call.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
LABELS = "dataset=simulated,split=s,fold=1,model=m,variant=default,seed=0"
LEFT_OUT = ["legacy_r2_topk", "legacy_pearson"]  # compare cell by cell, to reproduce a published table
FORMS = ("dense", "sparse")  # of cell-eval's input
SMALL = {"cells": 600, "genes": 100, "perturbations": 5}
REPEATS = 3  # of ours, each time
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # Snakemake sets them for a job


class Run(NamedTuple):
    """What a process took. ``memory`` is its largest resident set, in MB."""

    seconds: float
    cpu: float
    memory: float

    def __add__(self, other: "Run") -> "Run":  # type: ignore[override]
        """One after the other."""
        return Run(self.seconds + other.seconds, self.cpu + other.cpu, max(self.memory, other.memory))


class Programs(NamedTuple):
    """How to call both sides: the interpreters of their environments, and how many threads each may use."""

    ours: Path
    peer: Path
    threads: int

    def simulate(self, folder: Path, seed: int, **size: int) -> Run:
        folder.mkdir(parents=True, exist_ok=True)
        words = [word for name, n in {**size, "seed": seed}.items() for word in (f"--{name}", str(n))]
        return self.measured(folder, "simulate", self.ours, HERE / "simulated.py", *words, "--out", folder)

    def truth_side(self, folder: Path, settings: str) -> Run:
        script = ROOT / "workflow/scripts/reference.py"
        words = ["--truth", folder / "truth.h5ad", "--train", folder / "train.h5ad", "--settings", settings]
        return self.measured(
            folder, "reference", self.ours, "-P", script, *words, "--out", folder / "truth_stats.parquet"
        )

    def score(self, folder: Path, settings: str) -> Run:
        script = ROOT / "workflow/scripts/score.py"
        words = ["--prediction", folder / "prediction.h5ad", "--truth", folder / "truth.h5ad"]
        words += ["--truth-stats", folder / "truth_stats.parquet", "--settings", settings]
        words += ["--labels", LABELS, "--out", folder / "scores.parquet"]
        return self.measured(folder, "score", self.ours, "-P", script, *words)

    def cell_eval(self, folder: Path, form: str) -> Run:
        suffix = "_sparse" if form == "sparse" else ""
        words = ["run", "-ar", folder / f"real{suffix}.h5ad", "-ap", folder / f"pred{suffix}.h5ad"]
        words += ["--pert-col", "perturbation", "--control-pert", "control", "--profile", "full"]
        words += ["--num-threads", str(self.threads), "-o", folder / f"cell_eval_{form}"]
        return self.measured(folder, f"cell_eval_{form}", self.peer.with_name("cell-eval"), *words)

    def settings(self) -> str:
        """All our metrics but one, as JSON."""
        code = "import json; from trueshift.evaluation.metric import K;"
        code += "from trueshift.evaluation.registry import METRICS; print(json.dumps([list(METRICS), K]))"
        shown = subprocess.run(
            [self.ours, "-c", code], env=self.environment(), check=True, capture_output=True, text=True
        )
        metrics, k = json.loads(shown.stdout)
        return json.dumps({"metrics": [name for name in metrics if name not in LEFT_OUT], "k": k})

    def environment(self) -> dict[str, str]:
        """That of a process: it finds the library, and has so many threads."""
        return {**os.environ, "PYTHONPATH": str(ROOT / "src"), **dict.fromkeys(THREADS, str(self.threads))}

    def measured(self, folder: Path, name: str, *command: object) -> Run:
        """Runs a command, its output in ``folder/name.log``; ends the benchmark if it fails."""
        log = folder / f"{name}.log"
        with log.open("w") as file:
            begin = time.perf_counter()
            process = subprocess.Popen(
                [str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, env=self.environment()
            )
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} failed with status {process.returncode}:\n{log.read_text()[-3000:]}")
        return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)


def middle(runs: Iterable[Run]) -> Run:
    """That of median time; of an odd number of runs."""
    ordered = sorted(runs)
    return ordered[len(ordered) // 2]


def warm_up(programs: Programs, folder: Path) -> None:
    """Runs everything once on a small screen."""
    programs.simulate(folder, 0, **SMALL)
    settings = programs.settings()
    programs.truth_side(folder, settings)
    programs.score(folder, settings)
    for form in FORMS:
        programs.cell_eval(folder, form)


def compare(programs: Programs, folder: Path, size: dict[str, int], seed: int) -> None:
    """The whole benchmark; prints its tables and leaves ``times.json`` and ``agreement.csv`` in ``folder``."""
    programs.simulate(folder, seed, **size)
    settings = programs.settings()
    print((folder / "simulate.log").read_text().strip())
    busy = f"busy with other work before the start: {os.getloadavg()[0]:.1f}"
    print(f"{programs.threads} threads each, {os.cpu_count()} CPUs; {busy}\n", flush=True)
    truths, scores, peers = [], [], {}
    for form in (*FORMS, None):  # a machine is not equally fast all the time
        for _ in range(REPEATS):
            truths.append(programs.truth_side(folder, settings))
            scores.append(programs.score(folder, settings))
        if form is not None:
            peers[f"cell-eval, {form} input"] = programs.cell_eval(folder, form)
    truth_side, scored = middle(truths), middle(scores)
    runs = {"truth side": truth_side, "first prediction, with truth side": truth_side + scored}
    runs |= {"next prediction": scored, **peers}
    (folder / "times.json").write_text(json.dumps({name: run._asdict() for name, run in runs.items()}, indent=2) + "\n")
    print(f"{'':36}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}" + "".join(f"{'of ' + form:>12}" for form in FORMS))
    for name, run in runs.items():
        shares = "".join(f"{'1/' + format(peer.seconds / run.seconds, '.1f'):>12}" for peer in peers.values())
        print(f"{name:36}{run.seconds:9.2f}{run.cpu:9.2f}{run.memory:9.0f}{'' if 'cell-eval' in name else shares}")

    parts = {"agreement": (programs.peer, "agreement"), "below this nothing can go": (programs.ours, "floors")}
    for title, (python, name) in parts.items():
        programs.measured(folder, name, python, HERE / f"{name}.py", folder)
        print(f"\n{title}\n{(folder / f'{name}.log').read_text().rstrip()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000, help="test cells and one half of the controls")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--perturbations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    parser.add_argument("--panel", type=int, help="this many conditions by their means, instead of all the rest")
    parser.add_argument("--out", type=Path, default=ROOT / "results/benchmarks")
    parser.add_argument("--ours", type=Path, help="Python of the environment evaluation; found by default")
    parser.add_argument("--peer", type=Path, default=ROOT / ".envs/comparators/bin/python")
    args = parser.parse_args()
    if args.ours is None:
        sys.path.insert(0, str(ROOT / "tests"))
        from prefix import prefix

        args.ours = prefix("evaluation") / "bin/python"
    programs = Programs(args.ours, args.peer, args.threads)
    if args.panel is None:
        size = {name: getattr(args, name) for name in SMALL}
        out = args.out.absolute()
        if args.warm_up:
            warm_up(programs, out / "small")
        compare(programs, out, size, args.seed)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        run = programs.measured(args.out, "panel", args.ours, HERE / "panel.py", args.panel, args.genes, args.seed)
        print((args.out / "panel.log").read_text().rstrip())
        print(f"the process: {run.seconds:.1f} s, {run.memory:.0f} MB")


if __name__ == "__main__":
    main()
