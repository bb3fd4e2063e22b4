"""Whether values are on the scale of the data: what a prediction made elsewhere is most often wrong about."""

from typing import Any

import anndata as ad
import numpy as np

from trueshift.contract import ContractError, asked, column_means, kind_of, metadata

# The thresholds tell a mistake from a bad model, which must be scored, not refused. Numbers in brackets: the worst
# honest prediction and the mildest mistake between cell types of a sample of Kang et al. 2018, 300 or 1,267 genes.
COUNTS_FROM = 10  # logarithms are never whole everywhere, and rarely as high as this
LOG_LIMIT = 25.0  # log1p of 7e10: more than any normalised count
NEGATIVE_SHARE = 0.15  # of Σ|x| (a mean shift added 0.06, effects alone 0.24)
TOTAL_RATIO = 3.0  # (another cell type as it is 0.45 to 2.2, ten times the target_sum 3.4)
BASES = {"2": 1 / np.log(2), "10": 1 / np.log(10)}  # what log1p is multiplied by in another base
BASE_TOLERANCE, BASE_SHARE = 0.05, 0.5  # half the genes at the very same multiple of the controls is no biology
FEWEST_GENES = 10  # of which a share says something
# Shuffled genes correlate by 0 ± 1/√G; an honest prediction of 100 genes may do as badly (0.08), of 300 not (0.46).
SHUFFLED_ERRORS, SHUFFLED_GENES = 3, 200
LOW_CORRELATION = 0.5  # worth a note


def check_scale(values: np.ndarray, codes: np.ndarray, query: ad.AnnData, file: str, notes: list[str]) -> None:
    """Raises :class:`ContractError` unless the values (N, G), sorted by condition, are on the scale of the query.

    Which checks make sense depends on the data: differences (signatures, scaled data) have no totals to compare and
    no profile that all conditions share.
    """
    genes, kind = query.var_names, kind_of(query)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    blocks = np.split(values, starts[1:])
    for block in blocks:
        if not np.isfinite(block).all():
            gene = np.argwhere(~np.isfinite(block))[0, 1]
            raise ContractError(f"{file}: values are NaN or infinite, first in gene {genes[gene]}; the model diverged?")
    largest = float(values.max())
    how = str(metadata(query).get("normalization", "as their source has them"))
    scale = f"kind {metadata(query)['kind']}" + (f", {how}" if kind.raw_counts else "")
    if largest >= COUNTS_FROM and not _whole(query.X) and all(_whole(block) for block in blocks):
        what = f"normalise them as the data are: {how}" if kind.raw_counts else f"predict on the data's scale ({scale})"
        raise ContractError(f"{file}: all values are whole numbers, up to {largest:g}: these are counts; {what}")
    if kind.differential or query.X.min() < 0:
        return

    if kind.log1p and largest > LOG_LIMIT:
        raise ContractError(f"{file}: values up to {largest:g} are not logarithms; the data are log1p values ({scale})")
    negative = -sum(float(np.minimum(block, 0).sum(dtype=np.float64)) for block in blocks)
    share = negative / max(sum(float(np.abs(block).sum(dtype=np.float64)) for block in blocks), 1e-30)
    if share > NEGATIVE_SHARE:
        raise ContractError(
            f"{file}: values are negative, down to {values.min():g}, {share:.0%} of their sum of magnitudes, where the "
            "data have none: centred or scaled values, or effects instead of expression; add the mean of the input "
            "controls to an effect, undo the scaling"
        )
    if negative:
        notes.append(f"some values are below 0 (down to {values.min():g}), as of a linear model: scored as they are")

    means = np.stack([block.mean(axis=0, dtype=np.float64) for block in blocks])
    contexts = query.obs["context"].astype(str).to_numpy()
    controls = {name: column_means(query.X, contexts == name) for name in set(contexts)}
    reference = np.stack([controls[name] for name in asked(query)["context"].astype(str)])
    _check_totals(means, reference, kind.log1p, scale, file)
    _check_pattern(means.mean(axis=0), reference.mean(axis=0), file, notes)


def _whole(matrix: Any) -> bool:
    values = matrix.data if hasattr(matrix, "nnz") else np.asarray(matrix)
    return bool((values == np.rint(values)).all())


def _check_totals(means: np.ndarray, reference: np.ndarray, logged: bool, scale: str, file: str) -> None:
    """Compares condition means, shape (C, G), with the means of the same contexts' input controls.

    Means with means: the expm1 of a mean of logarithms is less than the mean of expm1, cell by cell.
    """
    expressed = reference.mean(axis=0) > np.median(reference.mean(axis=0))  # ratios of rare genes are noise
    if logged and expressed.sum() >= FEWEST_GENES:
        ratio = means.mean(axis=0)[expressed] / reference.mean(axis=0)[expressed]
        for base, factor in BASES.items():
            if (np.abs(ratio / factor - 1) < BASE_TOLERANCE).mean() > BASE_SHARE:
                raise ContractError(
                    f"{file}: values are {factor:.2f} times those of the input controls in most genes: logarithms to "
                    f"base {base}, where the data have others ({scale})? Divide by {factor:.4f}"
                )
    totals = [(np.expm1(part) if logged else part).sum(axis=1) for part in (means, reference)]
    known = totals[1] > 0
    if not known.any():
        return
    middle = float(np.median(totals[0][known] / totals[1][known]))
    if not 1 / TOTAL_RATIO <= middle <= TOTAL_RATIO:
        given, ours = (float(np.median(total[known])) for total in totals)
        cause = (
            "another target_sum, another base of the logarithm, none, or the log of a mean" if logged else "other units"
        )
        raise ContractError(
            f"{file}: predicted means sum to {given:,.6g}{' after expm1' if logged else ''} over the genes, those of "
            f"the input controls to {ours:,.6g} ({middle:.2g} times): {cause}; the data are of {scale}"
        )


def _check_pattern(mean: np.ndarray, reference: np.ndarray, file: str, notes: list[str]) -> None:
    """The mean over conditions, shape (G,), must resemble that of the input controls more than shuffled genes would."""
    if len(mean) < FEWEST_GENES or np.ptp(reference) == 0:
        return
    if np.ptp(mean) == 0:
        raise ContractError(f"{file}: the mean prediction is {mean[0]:g} for every gene; this is no expression")
    correlation = float(np.corrcoef(mean, reference)[0, 1])
    says = f"over the genes, the mean prediction correlates by {correlation:.2f} with the mean input control"
    if len(mean) >= SHUFFLED_GENES and correlation < SHUFFLED_ERRORS / np.sqrt(len(mean)):
        raise ContractError(
            f"{file}: {says}: genes look permuted; check that names and columns of values belong together"
        )
    if correlation < LOW_CORRELATION:
        notes.append(f"{says}: are the genes in the order of their names?")
