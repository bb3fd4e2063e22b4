"""Draws how far metrics agree on the order of models: leaderboard.csv → agreement.png."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_table
from trueshift.report.agreement import plot_agreement
from trueshift.report.style import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    save(plot_agreement(read_table(args.table)), args.out)


if __name__ == "__main__":
    run(main)
