"""How much disk a run may take, said before it starts.

The shares were measured on five screens of 700 to 21,000 cells and rounded up: bytes written per byte of the imported
file, an uncompressed sparse matrix. Sparser data and a selection of few genes need less.
"""

import shutil
from pathlib import Path

from plan import EXTERNAL, Plan

COMPRESSED = 4.0  # imported file to its source, as screens are published: gzip within HDF5
NORMALIZED = {"counts": 2.0, "lognorm": 1.0}  # counts stay in a layer
INTERMEDIATE = 2.0  # imported and QC'd, removed after use
FOLD = 2.3  # train, query, truth, halves
CELLS = 0.6  # an answer of cells, all genes stored
ANSWER = 4 << 20  # a trained network, its log and its curves
SMALL = 1 << 20  # the same of an equation


def imported_bytes(plan: Plan, dataset: str) -> float | None:
    """The size of a dataset once imported: as it is, or guessed from its source; None where neither is there."""
    made = Path("results", dataset, "normalized.h5ad")
    kind = plan.dataset(dataset)["kind"]
    if made.exists():
        return made.stat().st_size / NORMALIZED.get(kind, 1.0)
    source = plan.dataset(dataset)["source"]
    paths = [plan.located(source[key]) for key in ("path", "matrix", "expression") if key in source]
    if not paths or not paths[0].is_file():
        return None
    return COMPRESSED * paths[0].stat().st_size


def estimate(plan: Plan) -> tuple[float, list[str]]:
    """Bytes that all runs of the configuration may take when finished, at their peak; and datasets of unknown size."""
    total, unknown = 0.0, []
    for dataset in dict.fromkeys(chain.dataset for chain in plan.chains):
        size = imported_bytes(plan, dataset)
        values = Path("results", dataset, ".normalized.h5ad.values")  # apart, written once, linked to by all stages
        total += values.stat().st_size if values.exists() else 0
        if size is None:
            unknown.append(dataset)
            continue
        chains = [chain for chain in plan.chains if chain.dataset == dataset and chain.variant != EXTERNAL]
        folds = {chain[:3] for chain in chains}
        cells = sum(plan.model(chain.model)["output"] == "cells" for chain in chains)
        total += size * (NORMALIZED.get(plan.dataset(dataset)["kind"], 1.0) + INTERMEDIATE + FOLD * len(folds))
        total += cells * (CELLS * size + ANSWER) + (len(chains) - cells) * SMALL
    return total, unknown


def words(plan: Plan, folder: Path = Path()) -> str:
    """The estimate in one line, beside what is free; says what to do where that is too little."""
    total, unknown = estimate(plan)
    free = shutil.disk_usage(folder).free
    files = [file.stat() for file in folder.glob("results/**/*") if file.is_file()]
    taken = sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())  # large values are links
    line = (
        f"disk: about {_size(total)} for the whole configuration, {_size(taken)} of it there; " if total else "disk: "
    )
    line += f"{_size(free)} free" + (f"; need of {', '.join(unknown)} known once imported" if unknown else "")
    if total - taken > free:
        line += ". That may not be enough: make room, choose fewer folds or models, or link results/ to a larger disk"
    return line


def _size(value: float) -> str:
    for unit in ("MB", "GB"):
        value /= 1000 if unit == "GB" else 1e6
        if value < 1000:
            break
    return f"{value:.{0 if value >= 10 else 1}f} {unit}"
