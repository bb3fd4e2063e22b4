"""Says which metrics mean something on a split: scores of the floors, ceilings → calibration.parquet."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.evaluation.validity import calibrate
from trueshift.results import FOLD, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--floors", required=True, type=Path, nargs="+", help="scores.parquet of no_change, mean_shift")
    parser.add_argument("--ceilings", required=True, type=Path, nargs="+", help="…/{fold}/ceiling.parquet")
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: seed")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    table = calibrate(gather(args.floors), gather(args.ceilings, FOLD), args.settings["seed"])
    write_table(table, args.out)
    for row in table.to_dict("records"):
        print(f"{row['metric']} {row['k']} over {row['floor']}: {row['reason'] or 'passes'}")


if __name__ == "__main__":
    run(main)
