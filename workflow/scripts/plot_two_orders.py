"""Draws the order of models by the field's R² beside that by ours: both tables → two_orders.png."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_table
from trueshift.report.style import save
from trueshift.report.two_orders import plot_two_orders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, type=Path, help="topk_r2_results.csv")
    parser.add_argument("--table", required=True, type=Path, help="topk_r2.csv")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--baselines", nargs="*", default=[], help="models to draw as baselines")
    args = parser.parse_args()

    save(plot_two_orders(read_table(args.results), read_table(args.table), args.baselines), args.out)


if __name__ == "__main__":
    run(main)
