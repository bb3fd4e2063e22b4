"""Prepares the truth side of a test: truth.h5ad → truth_stats.parquet and the technical duplicate, ceiling.parquet."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_h5ad, write_table
from trueshift.evaluation.calibration import duplicate_ceiling
from trueshift.evaluation.reference import truth_statistics, write_truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: metrics, k, duplicate_halvings, seed")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--ceiling", required=True, type=Path)
    args = parser.parse_args()

    truth = read_h5ad(args.truth)
    statistics = truth_statistics(truth)
    conditions = statistics.conditions
    print(f"{len(conditions)} conditions, {len(statistics.genes)} genes")
    print(f"differentially expressed genes: {conditions['n_deg'].min()} to {conditions['n_deg'].max()} per condition")
    print(f"conditions without a differentially expressed gene: {int(conditions['n_deg'].eq(0).sum())}")
    flags = conditions.loc[conditions["flags"] != "", "flags"].value_counts().to_dict()
    print(f"conditions flagged: {flags or 'none'}")
    write_truth(statistics, args.out)
    ceiling = duplicate_ceiling(truth, statistics, args.settings)
    write_table(ceiling, args.ceiling)
    print(f"technical duplicate: {args.settings['duplicate_halvings']} halvings, {len(ceiling)} rows")


if __name__ == "__main__":
    run(main)
