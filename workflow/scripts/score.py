"""Scores one prediction: prediction.h5ad against truth.h5ad and its statistics → scores.parquet."""

import argparse
import json
from pathlib import Path

from trueshift.command import labels, run
from trueshift.contract import check_prediction, read_h5ad, write_table
from trueshift.evaluation.halves import Halves, read_arrays
from trueshift.evaluation.scoring import label, score
from trueshift.evaluation.truth import read_truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prediction", required=True, type=Path)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--truth-stats", required=True, type=Path)
    parser.add_argument("--halves", type=Path, help="also scores against the halves of the test cells in this file")
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: metrics, k")
    parser.add_argument(
        "--labels", required=True, type=labels, help="dataset=…,fold=…,model=…,seed=…,split=…,variant=…"
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    prediction, truth = read_h5ad(args.prediction), read_h5ad(args.truth)
    check_prediction(prediction, truth, args.prediction)
    halves = read_arrays(args.halves, Halves) if args.halves else None
    scores = score(prediction, truth, read_truth(args.truth_stats), args.settings, halves)
    write_table(label(scores, args.labels), args.out)
    undefined = scores.loc[scores["value"].isna(), "reason"].value_counts().to_dict()
    print(f"{len(scores)} scores; undefined: {undefined or 'none'}")


if __name__ == "__main__":
    run(main)
