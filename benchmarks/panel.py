"""Scores many conditions by their mean expression: seconds per metric. ``panel.py CONDITIONS GENES SEED``."""

import sys
import time

import numpy as np

from trueshift.evaluation.pair import Pair
from trueshift.evaluation.registry import METRICS

SINGLE_CELLS = {"cells", "copies", "samples"}
TOP = 50
NOISE = 0.1


def panel(n: int, genes: int, seed: int) -> Pair:
    """One panel of ``n`` conditions, each with a target; weak effects of few genes, with noise on both sides."""
    rng = np.random.default_rng(seed)
    control = rng.gamma(2, 0.5, genes).astype(np.float32)
    moved = rng.random((n, genes)) < 0.02
    delta = np.where(moved, rng.normal(0, 0.2, (n, genes)), 0).astype(np.float32)
    noise = [rng.normal(0, NOISE, (n, genes)).astype(np.float32) for _ in range(2)]
    z = (delta + noise[0]) / NOISE
    return Pair.of(
        control + delta + noise[0],
        control + 0.6 * delta + noise[1],
        np.broadcast_to(control, delta.shape),
        np.broadcast_to(control, delta.shape),
        np.argsort(-np.abs(z), axis=1).astype(np.int32),
        panel=np.zeros(n, dtype=int),
        targets=[np.array([i % genes]) for i in range(n)],
        centre=np.broadcast_to(control + 0.1, delta.shape),
        mean_delta=np.full(delta.shape, 0.1),
        z=z,
        significant=np.abs(z) > 3,
        shared_control=np.broadcast_to(control, delta.shape),
    )


def main() -> None:
    n, genes, seed = map(int, sys.argv[1:])
    pair = panel(n, genes, seed)
    print(f"{n:,} conditions × {genes:,} genes in one panel: {n * genes:,} effects, {n * n:,} distances")
    total = 0.0
    for metric in METRICS.values():
        if SINGLE_CELLS & set(metric.needs):
            continue
        begin = time.perf_counter()
        found = metric.function(pair, min(TOP, genes)) if metric.per_k else metric.function(pair)
        seconds = time.perf_counter() - begin
        total += seconds
        print(f"  {metric.name:24}{seconds:8.2f} s   mean {np.nanmean(found.value):8.4f}   {metric.formula[:60]}")
    print(f"  {'all':24}{total:8.2f} s")
    a, b = pair.delta_hat, pair.delta
    begin = time.perf_counter()
    a @ b.T
    seconds = time.perf_counter() - begin
    print(f"  bare matrix product of the same size: {seconds:.2f} s ({2 * n * n * genes / 1e9 / seconds:.0f} GFLOP/s)")


if __name__ == "__main__":
    main()
