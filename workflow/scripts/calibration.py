"""Which metrics mean something where: calibration.parquet of all splits → calibration.csv, a table to read."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.evaluation.validity import summary
from trueshift.results import gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--calibrations", required=True, type=Path, nargs="+", help="…/{dataset}/{split}/calibration.parquet"
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = summary(gather(args.calibrations, ["dataset", "split"]))
    write_table(table, args.out)
    print(f"{(table['passes'] == 'yes').sum()} of {len(table)} metrics pass, each on its dataset and split")


if __name__ == "__main__":
    run(main)
