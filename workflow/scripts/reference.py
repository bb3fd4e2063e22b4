"""Prepares the truth side of a test: truth.h5ad → truth_stats.parquet, halves.npz and duplicates.npz."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_h5ad
from trueshift.evaluation.halves import halvings, write_arrays
from trueshift.evaluation.reference import TestCells, truth_statistics
from trueshift.evaluation.truth import write_truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: duplicate_halvings, seed")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--halves", type=Path, help="also halves the test cells, into this file")
    parser.add_argument("--duplicates", type=Path, help="the other half of them as a prediction, into this file")
    args = parser.parse_args()

    truth = read_h5ad(args.truth)
    statistics = truth_statistics(truth, read_h5ad(args.train))
    conditions = statistics.conditions
    print(f"{len(conditions)} conditions, {len(statistics.genes)} genes")
    print(f"differentially expressed genes: {conditions['n_deg'].min()} to {conditions['n_deg'].max()} per condition")
    print(f"conditions without a differentially expressed gene: {int(conditions['n_deg'].eq(0).sum())}")
    flags = conditions.loc[conditions["flags"] != "", "flags"].value_counts().to_dict()
    print(f"conditions flagged: {flags or 'none'}")
    write_truth(statistics, args.out)
    if args.halves and args.duplicates:
        halves, duplicates = halvings(TestCells(truth), statistics, args.settings)
        write_arrays(halves, args.halves)
        write_arrays(duplicates, args.duplicates)
        print(f"halvings: {len(halves)}, of {len(halves.conditions)} conditions with 20 test cells or more")


if __name__ == "__main__":
    run(main)
