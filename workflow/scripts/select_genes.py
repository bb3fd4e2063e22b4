"""Genes of one fold: normalized.h5ad and split.csv → genes.csv, chosen on training cells only."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import open_h5ad, write_table
from trueshift.data.genes import select_genes
from trueshift.data.roles import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--split", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: the dataset's genes entry")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    genes = select_genes(open_h5ad(args.data), read_split(args.split), args.settings)
    counts = genes.loc[genes["selected"], "reason"].value_counts()
    why = ", ".join(f"{number} {reason}" for reason, number in counts.items())
    print(f"{genes['selected'].sum()} of {len(genes)} genes selected ({why}); {genes['flavor'].iloc[0]}")
    write_table(genes, args.out)


if __name__ == "__main__":
    run(main)
