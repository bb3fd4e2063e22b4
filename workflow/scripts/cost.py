"""Tabulates what every job took: benchmarks of Snakemake, train_cost.json and predict_cost.json → cost.csv."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_json, write_table
from trueshift.report.cost import cost
from trueshift.results import RUN, path_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--benchmarks", required=True, type=Path, nargs="+", help="…/benchmarks/{…}/{rule}.tsv")
    parser.add_argument(
        "--costs",
        type=Path,
        nargs="*",
        default=[],
        help="…/{dataset}/{split}/{fold}/{model}/{variant}/seed{n}/{train,predict}_cost.json",
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = cost(args.benchmarks, (path_labels(path, RUN) | read_json(path) for path in args.costs))
    write_table(table, args.out)
    for rule, jobs in table.groupby("rule", sort=False):
        print(f"{rule}: {len(jobs)} jobs, {jobs['seconds'].sum():.0f} s, at most {jobs['peak_rss_mb'].max():.0f} MB")


if __name__ == "__main__":
    run(main)
