"""A prediction and the truth it is compared with, sample by sample, in arrays that any tool reads."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from trueshift.contract import (
    CONDITION,
    ContractError,
    asked,
    atomic,
    column_means,
    dense,
    input_controls,
    unanswered,
)
from trueshift.evaluation.reference import condition_rows, pseudobulks


def sample_arrays(prediction: ad.AnnData, truth: ad.AnnData) -> dict[str, np.ndarray]:
    """One row per sample under test, under the names that MERGE gave its arrays, and what they are rows and columns of.

    ``prediction`` is ``prediction.h5ad``, ``truth`` the ``truth.h5ad`` of its fold. Float32, (n, G):

    - ``predictions``: what is predicted for the sample's condition, the profile or the mean of its cells;
    - ``treated_test``: the sample itself;
    - ``diseased_test``: the mean of the input controls of its condition (its own, of paired profiles).

    Text: ``gene_names`` (G,); ``sample_ids``, ``context``, ``perturbation``, ``dose`` (n,), in the order of ``truth``;
    ``unanswered_ids``, the samples left out because the prediction says that it leaves their condition unanswered.

    Raises :class:`ContractError` if genes or conditions are not those of the truth.
    """
    if prediction.var_names.tolist() != truth.var_names.tolist():
        raise ContractError("prediction: its genes are not those of the truth, in the same order; predict again")
    table = asked(truth)
    left = pd.MultiIndex.from_frame(unanswered(prediction)[CONDITION])
    answers = ~pd.MultiIndex.from_frame(table[CONDITION].astype(str)).isin(left)
    test = np.flatnonzero(truth.obs["role"].astype(str) == "test")
    of_sample = condition_rows(truth.obs.iloc[test], table, "truth")
    kept = answers[of_sample]

    answered = np.flatnonzero(answers)
    x_hat = np.zeros((len(table), truth.n_vars), dtype=np.float32)
    if len(answered):
        codes = condition_rows(prediction.obs, table.iloc[answered].reset_index(drop=True), "prediction")
        x_hat[answered] = pseudobulks(prediction.X, codes, len(answered))
    control = _control_means(truth, table)
    rows, codes = test[kept], of_sample[kept]
    obs = truth.obs.iloc[rows]
    return {
        "predictions": x_hat[codes],
        "treated_test": dense(truth.X[rows]),
        "diseased_test": control[codes],
        "sample_ids": obs.index.to_numpy(dtype=str),
        "gene_names": truth.var_names.to_numpy(dtype=str),
        **{column: obs[column].to_numpy(dtype=str) for column in CONDITION},
        "unanswered_ids": truth.obs_names[test[~kept]].to_numpy(dtype=str),
    }


def _control_means(truth: ad.AnnData, table: pd.DataFrame) -> np.ndarray:
    """The mean of the input controls of each condition of ``table``, (C, G), float32."""
    given = np.flatnonzero(truth.obs["role"].astype(str) == "control_input")
    of_condition = input_controls(ad.AnnData(obs=truth.obs.iloc[given], uns={"conditions": table}))
    means = {rows.tobytes(): rows for rows in of_condition}  # most conditions share theirs
    means = {key: column_means(truth.X, given[rows]) for key, rows in means.items()}
    return np.asarray([means[rows.tobytes()] for rows in of_condition], dtype=np.float32)


def write_arrays(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Writes arrays as a compressed NPZ without pickled parts: rows of one condition are the same, and cost little."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
