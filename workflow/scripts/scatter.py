"""Draws predicted against true effects: prediction.h5ad and truth_stats.parquet of its fold → scatter.png."""

import argparse
from pathlib import Path

from trueshift.command import run
from trueshift.contract import read_h5ad
from trueshift.evaluation.predicted import reasons_left_out
from trueshift.evaluation.truth import read_truth
from trueshift.report.scatter import CONDITIONS, plot_scatter, predicted_profiles
from trueshift.report.style import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prediction", required=True, type=Path)
    parser.add_argument("--truth-stats", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--title", help="default: the folders that the prediction is in")
    parser.add_argument("--conditions", type=int, default=CONDITIONS, help="how many to draw, those with most DEGs")
    args = parser.parse_args()

    truth = read_truth(args.truth_stats)
    prediction = read_h5ad(args.prediction)
    x_hat, left_out = predicted_profiles(prediction, truth), reasons_left_out(prediction, truth)
    title = args.title or " · ".join(args.prediction.absolute().parent.parts[-6:])  # dataset … seed
    save(plot_scatter(truth, x_hat, title, args.conditions, left_out), args.out)


if __name__ == "__main__":
    run(main)
