"""One fold of a split: normalized.h5ad → split.csv, one role per cell."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.data.roles import describe_split, read_obs, read_structures
from trueshift.data.splitting import make_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: the split's entry")
    parser.add_argument("--fold", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    obs = read_obs(args.data)
    split = make_split(obs, args.settings, args.fold, read_structures(args.data))
    print(f"fold {args.fold}", *describe_split(split, obs), sep="\n")
    write_table(split, args.out)


if __name__ == "__main__":
    run(main)
