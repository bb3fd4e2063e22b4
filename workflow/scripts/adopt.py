"""Takes in what others predicted: any h5ad of cells or profiles → prediction.h5ad, and notes of what was mended."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_h5ad, write_h5ad
from trueshift.evaluation.external import adopt, read_external


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", required=True, type=Path, help="the h5ad that others wrote")
    parser.add_argument("--query", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: columns, control, genes, layer")
    parser.add_argument("--fold", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    prediction, notes = adopt(read_external(args.file), read_h5ad(args.query), args.settings, args.fold, str(args.file))
    write_h5ad(prediction, args.out)
    print(*notes, f"{prediction.n_obs} rows × {prediction.n_vars} genes", sep="\n")


if __name__ == "__main__":
    run(main)
