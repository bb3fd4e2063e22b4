"""Ranks models by metrics that pass: scores, ceilings and calibrations → leaderboard.csv and its reading forms."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import write_table
from trueshift.report.challenge import vcc2025
from trueshift.report.leaderboard import leaderboard, leaderboard_wide, verdicts
from trueshift.results import FOLD, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--scores", required=True, type=Path, nargs="+")
    parser.add_argument("--ceilings", required=True, type=Path, nargs="+")
    parser.add_argument("--calibrations", required=True, type=Path, nargs="+")
    parser.add_argument("--baselines", nargs="*", default=[], help="models that others are compared with")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--wide", required=True, type=Path, help="a row per model, to read")
    parser.add_argument("--verdicts", required=True, type=Path, help="a row per metric: who is first, who ties")
    parser.add_argument("--vcc2025", required=True, type=Path, help="the score of the Virtual Cell Challenge 2025")
    args = parser.parse_args()

    scores = gather(args.scores)
    calibrations = gather(args.calibrations, ["dataset", "split"])
    table = leaderboard(scores, gather(args.ceilings, FOLD), calibrations, args.baselines)
    said = verdicts(table)
    write_table(table, args.out)
    write_table(leaderboard_wide(table), args.wide)
    write_table(said, args.verdicts)
    write_table(vcc2025(scores), args.vcc2025)
    print(said.to_string(index=False))


if __name__ == "__main__":
    run(main)
