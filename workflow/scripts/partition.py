"""Cuts one fold: normalized.h5ad, split.csv and genes.csv → train.h5ad, query.h5ad, truth.h5ad and leaks.csv."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import asked, open_h5ad, write_h5ad, write_table
from trueshift.data.audit import audit, check_audit
from trueshift.data.partition import partition, read_genes
from trueshift.data.roles import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--split", required=True, type=Path)
    parser.add_argument("--genes", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: split, regress_out, scale")
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--query", required=True, type=Path)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--leaks", required=True, type=Path)
    args = parser.parse_args()

    parts = partition(open_h5ad(args.data), read_split(args.split), read_genes(args.genes), args.settings)
    leaks = audit(parts[0], parts[2], args.settings["split"])
    write_table(leaks, args.leaks)
    check_audit(leaks, str(args.split))  # before the files are there, so that nothing is trained on a leak
    for part, path in zip(parts, (args.train, args.query, args.truth), strict=True):
        print(f"{path.name}: {part.n_obs} cells × {part.n_vars} genes")
        write_h5ad(part, path)
    print(f"conditions asked: {len(asked(parts[1]))}")
    for row in leaks[leaks["n_both"].fillna(0) > 0].itertuples():
        print(f"on both sides: {row.unit}: {row.n_both} of {row.n_test}, first {row.example}; {row.verdict}")


if __name__ == "__main__":
    run(main)
