"""Sets of perturbed cells with matched controls: train.h5ad → pairs.npz."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_pairs
from trueshift.data.pairing import make_pairs, padding
from trueshift.data.roles import read_obs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--set-size", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    pairs = make_pairs(read_obs(args.train), args.set_size, args.seed)
    validation, wide = (pairs.role == "val").sum(), (pairs.control_scope == "context").sum()
    print(f"{len(pairs.role)} sets of {args.set_size} cells, {validation} of them for validation")
    print(f"{padding(pairs):.1%} of the places in sets are padding: cells that serve more than once")
    print(f"{wide} sets have controls of the context only, for want of controls in their batch")
    write_pairs(pairs, args.out)


if __name__ == "__main__":
    run(main)
