"""Gathers the field's table, and the honest one beside it: scores.parquet of all runs → topk_r2_results.csv."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.report.legacy import read_stamped, topk_r2_honest, topk_r2_results
from trueshift.results import gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--scores", required=True, type=Path, nargs="+")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--honest", required=True, type=Path)
    args = parser.parse_args()

    scores = gather(args.scores, read=read_stamped)
    table = topk_r2_results(scores)
    write_table(table, args.out)
    write_table(topk_r2_honest(scores), args.honest)
    print(f"{len(args.scores)} score files, {len(table)} rows in {args.out}")


if __name__ == "__main__":
    run(main)
