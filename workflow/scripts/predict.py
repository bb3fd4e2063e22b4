"""Answers a query with a trained model: model/ + query.h5ad → prediction.h5ad, and what it cost."""

import argparse
import json
from pathlib import Path

from trueshift.command import run
from trueshift.contract import check_intact, check_prediction, read_h5ad, write_h5ad
from trueshift.lease import lease
from trueshift.models.base import Query
from trueshift.models.coverage import load_trained, predict_covered
from trueshift.tracking import cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--query", required=True, type=Path)
    parser.add_argument("--settings", required=True, type=json.loads, help="JSON: class, params, needs")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--gpus", default=0, type=int, help="whole GPUs to lease; without one the CPU computes")
    parser.add_argument("--cost", required=True, type=Path)
    args = parser.parse_args()

    check_intact(args.model)
    with cost("predict", args.cost, cpu_fallback=lease(args.gpus)):
        query = read_h5ad(args.query)
        model = load_trained(args.model, args.settings, args.seed)
        prediction = predict_covered(model, Query(query), args.settings)
        check_prediction(prediction, query, args.out)
        write_h5ad(prediction, args.out)


if __name__ == "__main__":
    run(main)
