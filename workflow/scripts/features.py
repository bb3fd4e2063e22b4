"""Which features and structures of perturbations there are, and for how many: features.csv of all datasets → one."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.results import gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--features", required=True, type=Path, nargs="+", help="…/{dataset}/features.csv")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = gather(args.features).astype({"n_features": "Int64"})
    write_table(table, args.out)
    print(table.to_string())


if __name__ == "__main__":
    run(main)
