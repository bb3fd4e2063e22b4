"""Tabulates the top-k R²: scores.parquet and ceiling.parquet of all runs → topk_r2.csv and its reading form."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.report.tables import topk_r2, topk_r2_wide, undefined
from trueshift.results import FOLD, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--scores", required=True, type=Path, nargs="+")
    parser.add_argument(
        "--ceilings", type=Path, nargs="*", default=[], help="…/{dataset}/{split}/{fold}/ceiling.parquet"
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--wide", required=True, type=Path)
    parser.add_argument("--undefined", type=Path, help="also counts why values are missing, in this file")
    args = parser.parse_args()

    scores = gather(args.scores)
    table = topk_r2(scores, gather(args.ceilings, FOLD))
    write_table(table, args.out)
    write_table(topk_r2_wide(table), args.wide)
    if args.undefined:
        write_table(undefined(scores), args.undefined)
    print(f"{len(args.scores)} score files, {len(table)} rows in {args.out}")


if __name__ == "__main__":
    run(main)
