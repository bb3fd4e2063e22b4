"""Trains one model: train.h5ad (and pairs) → model/, and what it cost."""

import argparse
import json
from pathlib import Path

from trueshift.command import labels, run
from trueshift.contract import atomic_folder, read_h5ad, read_pairs
from trueshift.lease import lease
from trueshift.models.base import Training, build
from trueshift.models.coverage import fit_covered
from trueshift.tracking import Run, cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--pairs", nargs="?", type=Path, help="only for models that need them")
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: class, params, needs")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--tracking", required=True, type=json.loads, help="JSON: wandb, project")
    parser.add_argument("--labels", type=labels, default={}, help="of this run, where it is tracked: dataset=…,fold=…")
    parser.add_argument("--resume", required=True, type=Path, help="folder of resumable checkpoints")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--gpus", default=0, type=int, help="whole GPUs to lease; without one the CPU computes")
    parser.add_argument("--cost", required=True, type=Path)
    args = parser.parse_args()

    with cost("train", args.cost, cpu_fallback=lease(args.gpus)):
        model = build(args.settings, args.seed)
        given = Training(read_h5ad(args.train), read_pairs(args.pairs) if args.pairs else None)
        of_run = [args.labels.get(label, "") for label in ("dataset", "split", "fold", "model", "variant", "seed")]
        names = {**args.tracking, "group": "/".join(of_run[:3]), "name": "/".join(of_run[3:])}
        config = {**args.settings, "seed": args.seed}
        with Run(resume=args.resume, folder=args.resume.parent, config=config, **names) as tracker:
            trained = fit_covered(model, given, args.settings, tracker)
        with atomic_folder(args.out) as folder:
            trained.save(folder)


if __name__ == "__main__":
    run(main)
