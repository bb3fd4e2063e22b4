"""Writes the table of what was left out and why: the plan's rows → exclusions.csv."""

import argparse
import json
from pathlib import Path

import pandas as pd

from trueshift.command import run
from trueshift.contract import write_table

COLUMNS = ["dataset", "split", "model", "variant", "reason"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, type=Path, help="JSON: a list of mappings")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    write_table(pd.DataFrame(json.loads(args.rows.read_text()), columns=COLUMNS), args.out)


if __name__ == "__main__":
    run(main)
