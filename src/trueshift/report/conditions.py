"""The table of conditions: what is asked of the models."""

import pandas as pd

from trueshift.contract import CONDITION
from trueshift.results import FOLD, as_text, natural, require

TEXT = [*FOLD, *CONDITION, "flags"]
COLUMNS = [*TEXT[:-1], "n_cells", "n_deg", "n_controls", "n_seen", "flags"]


def conditions(truth: pd.DataFrame) -> pd.DataFrame:
    """What is asked of the models: one row per condition and fold, columns :data:`COLUMNS`.

    ``truth`` holds tables of conditions (:func:`trueshift.evaluation.reference.read_conditions`) with their dataset,
    split and fold. ``n_deg`` is missing where no test for differential expression is possible.
    """
    require(truth, COLUMNS, "truth_stats")
    table = as_text(truth[COLUMNS], TEXT)
    order = [*FOLD, *CONDITION]
    return table.sort_values(order, key=lambda column: column.map(natural), ignore_index=True)
