"""Quality control: imported.h5ad → qc.h5ad, with a report and a figure of what was removed and why."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import open_h5ad, write_h5ad, write_json
from trueshift.data.qc import found_in, qc_settings, quality_control


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: the dataset's qc entry")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--report", required=True, type=Path)
    parser.add_argument("--figure", required=True, type=Path)
    args = parser.parse_args()

    before = open_h5ad(args.data)
    found = found_in(before, qc_settings(before, args.settings)["mito_prefix"])
    kept, report = quality_control(before, args.settings, found)
    for what in ("cells", "genes"):
        removed = ", ".join(f"{number} by {reason}" for reason, number in report[what]["removed"].items())
        print(f"{what}: {report[what]['before']} before, {report[what]['after']} kept (removed: {removed})")
    for note in report["notes"]:
        print(f"note: {note}")

    from trueshift.data.qc_figure import qc_figure  # matplotlib: not needed when the data are refused above

    qc_figure(found, report, args.figure)
    write_json(report, args.report)
    write_h5ad(kept, args.out)


if __name__ == "__main__":
    run(main)
