"""The score of the Virtual Cell Challenge 2025, for comparison with what was published there."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from trueshift.contract import CONDITION

PARTS = {"mae": "mae", "pds": "vcc2025_pds", "overlap": "vcc2025_overlap"}
BASELINE = ("train_mean", "default")
VCC_COLUMNS = ["dataset", "split", "model", "variant", "n_conditions", *PARTS]
VCC_COLUMNS += [*(f"{part}_scaled" for part in PARTS), "vcc2025", "note"]


def vcc2025(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset × split × model × variant, columns :data:`VCC_COLUMNS`, best first.

    ``scores`` holds the rows of any number of ``scores.parquet`` files. Each part is the mean over the conditions on
    which the model and the baseline have all three, seeds and folds averaged before. With the challenge's baseline b,
    the mean of the perturbed training conditions (train_mean), the mean absolute error u is scaled to 1 − u / b, the
    other two, perturbation discrimination and overlap of DEGs, to (u − b) / (1 − b); each is floored at 0, and
    ``vcc2025`` is their mean. The baseline itself scores 0 by construction. Roohani et al., Cell 2025 (Virtual Cell
    Challenge). It ranks nothing here: two of the parts do not say how much of an effect is predicted, and the floor
    hides how far below it a model is.
    """
    lines: list[Hashable] = ["dataset", "split", "model", "variant"]
    rows = scores[scores["metric"].isin(PARTS.values())]
    if rows.empty:
        return pd.DataFrame(columns=VCC_COLUMNS)
    means = rows.groupby([*lines, "fold", *CONDITION, "metric"], observed=True)["value"].mean().unstack("metric")
    means = means.reindex(columns=list(PARTS.values())).groupby([*lines, *CONDITION]).mean()
    means.columns = pd.Index(list(PARTS))
    table = []
    for (dataset, split), part in means.groupby(["dataset", "split"]):
        models = part.groupby(["model", "variant"])
        base = models.get_group(BASELINE).droplevel(lines).dropna() if BASELINE in models.groups else None
        for (model, variant), own in models:
            known = own.droplevel(lines).dropna()
            if base is not None:
                known = known.loc[known.index.intersection(base.index)]
            u, n = known.mean(), len(known)
            row = {"dataset": dataset, "split": split, "model": model, "variant": variant, "n_conditions": n, **u}
            if base is None or not n:
                why = "the baseline train_mean was not run" if base is None else "a part is undefined everywhere"
                table.append(row | {"note": why})
                continue
            b = base.loc[known.index].mean()
            scaled = {"mae_scaled": 1 - u["mae"] / b["mae"]}
            scaled |= {f"{name}_scaled": _gained(u[name], b[name]) for name in ("pds", "overlap")}
            floored = {name: max(value, 0.0) for name, value in scaled.items()}
            table.append(row | floored | {"vcc2025": float(np.mean(list(floored.values()))), "note": ""})
    made = pd.DataFrame(table, columns=VCC_COLUMNS)
    order = {"dataset": True, "split": True, "vcc2025": False, "model": True, "variant": True}
    return made.sort_values(list(order), ascending=list(order.values()), ignore_index=True)


def _gained(u: float, b: float) -> float:
    """(u − b) / (1 − b): the share of what the baseline leaves; 0 where it leaves nothing."""
    return float((u - b) / (1 - b)) if b < 1 else 0.0
