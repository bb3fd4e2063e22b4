"""Scores of mean expression, without a file of cells."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trueshift.evaluation.predicted import Predicted
from trueshift.evaluation.scoring import make_pair, score_pair
from trueshift.evaluation.truth import Truth


def score_profiles(x_hat: np.ndarray, truth: Truth, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of predicted means, (C, G), rows in the order of ``truth.conditions``."""
    return score_pair(make_pair(truth, Predicted(np.broadcast_to(x_hat, truth.mean.shape))), truth, settings)
