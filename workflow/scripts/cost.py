"""Tabulates what every run took: train_cost.json and predict_cost.json → cost.csv."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_json, write_table
from trueshift.report.cost import cost
from trueshift.results import RUN, path_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--costs",
        required=True,
        type=Path,
        nargs="+",
        help="…/{dataset}/{split}/{fold}/{model}/{variant}/seed{n}/{train,predict}_cost.json",
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = cost(path_labels(path, RUN) | read_json(path) for path in args.costs)
    write_table(table, args.out)
    print(f"{len(table)} runs, {table[['train_seconds', 'predict_seconds']].sum().sum():.0f} s in all")


if __name__ == "__main__":
    run(main)
