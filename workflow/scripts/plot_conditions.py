"""Draws the r2_topk of every model on every condition: scores.parquet of all runs → conditions.png."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.report.figures import plot_conditions, save
from trueshift.results import gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--scores", required=True, type=Path, nargs="+")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--baselines", nargs="*", default=[], help="models to draw as baselines")
    args = parser.parse_args()

    save(plot_conditions(gather(args.scores), args.baselines), args.out)


if __name__ == "__main__":
    run(main)
