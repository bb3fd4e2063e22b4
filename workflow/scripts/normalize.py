"""Depth normalisation and log1p: qc.h5ad → normalized.h5ad, counts kept in a layer."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import metadata, open_h5ad, write_h5ad
from trueshift.data.normalize import normalize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: the dataset's normalize entry")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    normalized = normalize(open_h5ad(args.data), args.settings)
    print(f"{normalized.n_obs} cells × {normalized.n_vars} genes: {metadata(normalized)['normalization']}")
    write_h5ad(normalized, args.out)


if __name__ == "__main__":
    run(main)
