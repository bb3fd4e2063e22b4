"""Fetches the files of a dataset that have an address, and checks those that are there → fetched.json."""

import argparse
import json
from functools import partial
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_json
from trueshift.data.download import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", required=True, type=json.loads, help="JSON: a list of path, url, and sha256 or md5")
    parser.add_argument("--data-folder", required=True, type=Path, help="what {data} in paths stands for")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    log = partial(print, flush=True)  # a transfer takes hours: what it says is there at once
    files = [fetch(entry, args.data_folder, log) for entry in args.files]
    rows = [{"path": str(f.path), "url": f.origin, "checksum": f.checksum, "bytes": f.size} for f in files]
    write_json(rows, args.out)


if __name__ == "__main__":
    run(main)
