"""What stands on both sides of each split: leaks.csv of all folds → one table."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.results import FOLD, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--leaks", required=True, type=Path, nargs="+", help="…/{dataset}/{split}/{fold}/leaks.csv")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = gather(args.leaks, FOLD)
    write_table(table[[*FOLD, *table.columns.drop(FOLD)]], args.out)
    print(table["verdict"].value_counts().to_string())


if __name__ == "__main__":
    run(main)
