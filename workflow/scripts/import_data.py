"""Brings one source into canonical form: files, an address or a simulation → imported.h5ad."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_h5ad
from trueshift.data.sources import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: kind, source, columns, filter, …")
    parser.add_argument("--data-folder", required=True, type=Path, help="what {data} in paths stands for")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    write_h5ad(load(args.name, args.settings, args.data_folder), args.out)


if __name__ == "__main__":
    run(main)
