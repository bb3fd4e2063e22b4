"""Draws anchored scores of all models by all metrics that may rank them: leaderboard.csv → leaderboard.png."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_table
from trueshift.report.comparison import plot_leaderboard
from trueshift.report.style import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--baselines", nargs="*", default=[], help="models to draw as baselines")
    args = parser.parse_args()

    save(plot_leaderboard(read_table(args.table), args.baselines), args.out)


if __name__ == "__main__":
    run(main)
