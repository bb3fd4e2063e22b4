"""The kinds of data, one row each: all that the code asks of a kind stands here, and a new kind is a new row."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What is true of data of one kind.

    - ``dense``: X is a dense array from import on; otherwise it is CSR.
    - ``raw_counts``: Values are counts, whole and not negative, and must be normalised; other kinds pass through.
    - ``log1p``: Once normalised, values are log1p of counts that are scaled per cell, so their ``expm1`` has a total.
    - ``differential``: Values are differences from controls, without totals or a profile that all conditions share.
    - ``intensities``: Values are log2 intensities, far above 0, where packages that start near 0 need them centred.
    - ``has_cells``: The rows of a condition are a sample of cells; otherwise each is a mean over many cells.
    - ``qc_defaults``: Defaults of quality control where they are not those of cells (``QC_DEFAULTS``).
    - ``enough_controls``: A context with fewer controls, input and reference together, is flagged ``few_controls``.
    - ``min_controls``: One with fewer is flagged ``too_few_controls``; what needs controls is undefined there.
    - ``min_treated_to_test``: Rows of a condition that a rank test needs.
    - ``min_controls_to_test``: Controls, of input and of reference each, that a rank test needs.
    """

    dense: bool
    raw_counts: bool
    log1p: bool
    differential: bool
    intensities: bool
    has_cells: bool
    qc_defaults: Mapping[str, int]
    enough_controls: int
    min_controls: int
    min_treated_to_test: int
    min_controls_to_test: int


# A value of 0 means "not found" in counts; of an array it is one intensity among others.
UNFILTERED = {"min_genes": 0, "min_cells": 0}

KINDS: dict[str, Kind] = {
    "counts": Kind(
        dense=False,
        raw_counts=True,
        log1p=True,
        differential=False,
        intensities=False,
        has_cells=True,
        qc_defaults={},
        enough_controls=100,
        min_controls=40,
        min_treated_to_test=2,
        min_controls_to_test=1,
    ),
    "lognorm": Kind(
        dense=False,
        raw_counts=False,
        log1p=True,
        differential=False,
        intensities=False,
        has_cells=True,
        qc_defaults={},
        enough_controls=100,
        min_controls=40,
        min_treated_to_test=2,
        min_controls_to_test=1,
    ),
    # A bulk profile is itself a mean over thousands of cells, so few controls do. A rank test of fewer than five a side
    # cannot reach significance over a thousand genes.
    "profile": Kind(
        dense=True,
        raw_counts=False,
        log1p=False,
        differential=False,
        intensities=True,
        has_cells=False,
        qc_defaults=UNFILTERED,
        enough_controls=10,
        min_controls=2,
        min_treated_to_test=5,
        min_controls_to_test=5,
    ),
    # The signatures of a condition count as a sample, as cells do.
    "signature": Kind(
        dense=True,
        raw_counts=False,
        log1p=False,
        differential=True,
        intensities=False,
        has_cells=True,
        qc_defaults=UNFILTERED,
        enough_controls=100,
        min_controls=40,
        min_treated_to_test=2,
        min_controls_to_test=1,
    ),
}


def is_dense(name: object) -> bool:
    """Whether X of the kind ``name`` is dense; False of what is no kind, which import refuses."""
    return isinstance(name, str) and name in KINDS and KINDS[name].dense
