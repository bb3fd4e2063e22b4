"""Exports a prediction and its truth, sample by sample: prediction.h5ad and truth.h5ad → prediction.npz."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_h5ad
from trueshift.report.export import sample_arrays, write_arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prediction", required=True, type=Path)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    arrays = sample_arrays(read_h5ad(args.prediction), read_h5ad(args.truth))
    write_arrays(arrays, args.out)
    samples, genes = arrays["predictions"].shape
    print(f"{samples} samples × {genes} genes, {len(arrays['unanswered_ids'])} samples left unanswered")


if __name__ == "__main__":
    run(main)
