"""Lists what is asked of the models: truth_stats.parquet of all folds → conditions.csv."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.evaluation.truth import read_conditions
from trueshift.report.conditions import conditions
from trueshift.results import FOLD, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--truth-stats", required=True, type=Path, nargs="+", help="…/{dataset}/{split}/{fold}/truth_stats.parquet"
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = conditions(gather(args.truth_stats, FOLD, read_conditions))
    write_table(table, args.out)
    print(f"{len(table)} conditions, {int((table['n_deg'] == 0).sum())} without effect")


if __name__ == "__main__":
    run(main)
