"""Brings one source into canonical form: files, an address or a simulation → imported.h5ad, features.csv."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_h5ad, write_table
from trueshift.data.features.tables import coverage
from trueshift.data.loading import load
from trueshift.values import scratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: kind, source, columns, filter, …")
    parser.add_argument("--data-folder", required=True, type=Path, help="what {data} in paths stands for")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument(
        "--features", required=True, type=Path, help="table: how many perturbations have which features"
    )
    args = parser.parse_args()

    with scratch(args.out) as values:
        data = load(args.name, args.settings, args.data_folder, values=values)
        write_table(coverage(data), args.features)
        write_h5ad(data, args.out)


if __name__ == "__main__":
    run(main)
