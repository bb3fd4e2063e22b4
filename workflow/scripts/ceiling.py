"""Scores one half of the test cells against the other: halves.npz and duplicates.npz → ceiling.parquet."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.evaluation.duplicates import ceiling
from trueshift.evaluation.halves import Duplicates, Halves, read_arrays
from trueshift.evaluation.truth import read_truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth-stats", required=True, type=Path)
    parser.add_argument("--halves", required=True, type=Path)
    parser.add_argument("--duplicates", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: metrics, k")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    halves, duplicates = read_arrays(args.halves, Halves), read_arrays(args.duplicates, Duplicates)
    table = ceiling(read_truth(args.truth_stats), halves, duplicates, args.settings)
    write_table(table, args.out)
    print(f"{len(table)} scores of the technical duplicate; undefined: {int(table['value'].isna().sum())}")


if __name__ == "__main__":
    run(main)
