"""Scores one prediction: prediction.h5ad against truth_stats.parquet → scores.parquet."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import check_prediction, read_h5ad, write_table
from trueshift.evaluation.reference import read_truth
from trueshift.evaluation.scoring import label, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prediction", required=True, type=Path)
    parser.add_argument("--query", required=True, type=Path)
    parser.add_argument("--truth-stats", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: metrics, k")
    parser.add_argument("--labels", required=True, type=json.loads, help="JSON: dataset, split, fold, model, …")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    prediction = read_h5ad(args.prediction)
    check_prediction(prediction, read_h5ad(args.query), args.prediction)
    scores = label(score(prediction, read_truth(args.truth_stats), args.settings), args.labels)
    write_table(scores, args.out)
    undefined = scores.loc[scores["value"].isna(), "reason"].value_counts().to_dict()
    print(f"{len(scores)} scores; undefined: {undefined or 'none'}")


if __name__ == "__main__":
    run(main)
