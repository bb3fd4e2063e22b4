"""Draws the top-k R² of all models with intervals, floor and ceiling: topk_r2.csv → topk_r2.png."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_table
from trueshift.report.figures import plot_topk_r2, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--baselines", nargs="*", default=[], help="models to draw as baselines")
    args = parser.parse_args()

    save(plot_topk_r2(read_table(args.table), args.baselines), args.out)


if __name__ == "__main__":
    run(main)
