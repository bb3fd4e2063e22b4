"""The simulated screen: its design, its distribution and its true effects."""

import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from trueshift.contract import CONTROL, ContractError, components
from trueshift.data.sources.simulate import simulate

SMALL = {"genes": 40, "perturbations": 4, "combinations": 2, "cells_per_condition": 6, "controls_per_batch": 5}


@pytest.fixture(scope="module")
def screen() -> ad.AnnData:
    return simulate()


@pytest.fixture(scope="module")
def shifts(screen: ad.AnnData) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Conditions, their observed shifts of mean log1p CP10k from the context's controls, their numbers of DEGs."""
    counts = screen.X.toarray()
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    conditions = screen.uns["simulation"]["conditions"]
    shift, degs = [], []
    for row in conditions.itertuples():
        here = (screen.obs["context"] == row.context).to_numpy()
        treated = logs[here & (screen.obs["perturbation"] == row.perturbation).to_numpy()]
        controls = logs[here & screen.obs["is_control"].to_numpy()]
        shift.append(treated.mean(axis=0) - controls.mean(axis=0))
        degs.append((mannwhitneyu(treated, controls).pvalue < 0.05 / screen.n_vars).sum())
    return conditions, np.array(shift), np.array(degs)


def explained(truth: np.ndarray, prediction: np.ndarray, k: int = 20) -> float:
    """Mean over conditions of 1 - Σ(δ-δ̂)² / Σδ² over the k genes with the largest true shift."""
    top = np.argsort(-np.abs(truth), axis=1)[:, :k]
    true, guess = np.take_along_axis(truth, top, 1), np.take_along_axis(prediction, top, 1)
    return float(np.mean(1 - ((true - guess) ** 2).sum(axis=1) / (true**2).sum(axis=1)))


def test_design_of_the_defaults(screen: ad.AnnData) -> None:
    obs = screen.obs
    assert screen.shape == (3 * 20 * 80 + 3 * 2 * 200, 500)
    perturbed = obs[~obs["is_control"]]
    assert (perturbed.groupby(["context", "perturbation"], observed=True).size() == 80).all()
    assert (obs[obs["is_control"]].groupby(["context", "batch"], observed=True).size() == 200).all()
    assert (perturbed.groupby(["context", "perturbation", "batch"], observed=True).size() == 40).all()
    assert set(obs.loc[obs["is_control"], "perturbation"]) == {CONTROL}
    assert set(obs.loc[obs["is_control"], "dose"]) == {"0"}
    labels = [label for label in obs["perturbation"].unique() if label != CONTROL]
    assert sum("+" in label for label in labels) == 10
    assert all(components(label) == sorted(components(label)) for label in labels)
    assert {part for label in labels for part in components(label)} <= set(screen.var_names)
    assert screen.var_names[0] == "GENE001"


def test_survives_the_default_quality_control(screen: ad.AnnData) -> None:
    assert (screen.X.getnnz(axis=1) >= 200).all()
    assert (screen.X.getnnz(axis=0) >= 50).all()
    assert (screen.X.data == np.rint(screen.X.data)).all()


def test_same_seed_same_counts_other_seed_other_counts() -> None:
    first, second, other = (simulate(**SMALL, seed=seed) for seed in (3, 3, 4))
    assert (first.X != second.X).nnz == 0
    pd.testing.assert_frame_equal(first.obs, second.obs)
    assert (first.X != other.X).nnz > 0


def test_takes_seconds() -> None:
    start = time.process_time()
    simulate()
    assert time.process_time() - start < 3


def test_true_effects_are_what_the_counts_show(screen: ad.AnnData) -> None:
    """Logs of mean shares, treated over controls, scatter around the stored log fold changes."""
    conditions, true = (screen.uns["simulation"][key] for key in ("conditions", "log_fold_change"))
    counts = screen.X.toarray()
    shares = counts / counts.sum(axis=1, keepdims=True)
    for number in range(0, len(conditions), 7):
        row = conditions.iloc[number]
        here = (screen.obs["context"] == row["context"]).to_numpy()
        treated = shares[here & (screen.obs["perturbation"] == row["perturbation"]).to_numpy()].mean(axis=0)
        controls = shares[here & screen.obs["is_control"].to_numpy()].mean(axis=0)
        common = controls > 1e-3  # rare genes are noisy
        error = np.log(treated / controls)[common] - true[number, common]
        assert np.abs(error).mean() < 0.1
        assert np.corrcoef(np.log(treated / controls)[common], true[number, common])[0, 1] > 0.9


def test_every_condition_has_effects_that_simple_baselines_find(
    shifts: tuple[pd.DataFrame, np.ndarray, np.ndarray],
) -> None:
    conditions, shift, degs = shifts
    assert degs.min() >= 5
    elsewhere = [(conditions["context"] != context).to_numpy() for context in conditions["context"]]
    mean_shift = np.array([shift[other].mean(axis=0) for other in elsewhere])
    same = [
        other & (conditions["perturbation"] == label).to_numpy()
        for other, label in zip(elsewhere, conditions["perturbation"], strict=True)
    ]
    perturbation_mean = np.array([shift[other].mean(axis=0) for other in same])
    assert explained(shift, mean_shift) > 0.2  # no effect would be 0
    assert explained(shift, perturbation_mean) > 0.8


def test_combinations_add_up_unless_they_interact(shifts: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    conditions, shift, _ = shifts
    row = {key: i for i, key in enumerate(zip(conditions["context"], conditions["perturbation"], strict=True))}
    double = conditions[conditions["perturbation"].str.contains("+", regex=False)]
    total = np.array(
        [
            sum(shift[row[context, part]] for part in label.split("+"))
            for context, label in zip(double["context"], double["perturbation"], strict=True)
        ]
    )
    interacts = double["interaction"].to_numpy()
    assert interacts.sum() == 9  # 3 of 10, in 3 contexts
    plain = explained(shift[double.index[~interacts]], total[~interacts])
    assert plain > 0.9
    assert explained(shift[double.index[interacts]], total[interacts]) < plain - 0.05


def test_features_predict_unseen_perturbations(
    screen: ad.AnnData, shifts: tuple[pd.DataFrame, np.ndarray, np.ndarray]
) -> None:
    """Ridge on the noisy programs, leaving one single perturbation out, beats the mean of the others."""
    conditions, shift, _ = shifts
    features = screen.uns["perturbation_features"]["programs"]
    here = (conditions["context"] == "context1").to_numpy()
    index = pd.Index(conditions.loc[here, "perturbation"])
    y = pd.DataFrame(shift[here], index=index).loc[features.index].to_numpy()
    x = np.column_stack([features.to_numpy(), np.ones(len(features))])
    ridge, mean = [], []
    for left in range(len(y)):
        train = np.arange(len(y)) != left
        weights = np.linalg.solve(x[train].T @ x[train] + 0.02 * np.eye(x.shape[1]), x[train].T @ y[train])
        ridge.append(x[left] @ weights)
        mean.append(y[train].mean(axis=0))
    assert explained(y, np.array(ridge)) > explained(y, np.array(mean)) + 0.1


@pytest.mark.parametrize(("modality", "sign"), [("CRISPRi", -1), ("KO", -1), ("CRISPRa", 1)])
def test_target_genes_move_with_the_modality(modality: str, sign: int) -> None:
    data = simulate(**SMALL, modality=modality, effect=0.01, shared=0.01)
    conditions, true = (data.uns["simulation"][key] for key in ("conditions", "log_fold_change"))
    for number, label in enumerate(conditions["perturbation"]):
        own = data.var_names.get_indexer(components(label))
        assert (sign * true[number, own] > 0.8).all()
    assert set(data.obs["modality"]) == {modality}


def test_effects_grow_with_dose() -> None:
    data = simulate(**SMALL, doses=[10, 0.1, 1])
    assert set(data.obs["dose"]) == {"0", "0.1", "1", "10", "0.1+0.1", "1+1", "10+10"}
    conditions, true = (data.uns["simulation"][key] for key in ("conditions", "log_fold_change"))
    single = conditions[~conditions["perturbation"].str.contains("+", regex=False)]
    size = pd.Series(np.abs(true[single.index]).mean(axis=1), index=single.index)
    table = size.groupby([single["context"], single["perturbation"], single["dose"].astype(float)]).mean().unstack()
    assert (np.diff(table.to_numpy(), axis=1) > 0).all()


@settings(max_examples=15, deadline=None)
@given(
    contexts=st.integers(1, 3),
    batches=st.integers(1, 3),
    perturbations=st.integers(1, 5),
    cells=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_any_size(contexts: int, batches: int, perturbations: int, cells: int, seed: int) -> None:
    combinations = perturbations * (perturbations - 1) // 2
    data = simulate(
        contexts=contexts, batches=batches, genes=12, perturbations=perturbations, combinations=combinations,
        cells_per_condition=cells, controls_per_batch=2, programs=2, seed=seed,
    )  # fmt: skip
    conditions = contexts * (perturbations + combinations)
    assert data.n_obs == conditions * cells + contexts * batches * 2
    assert data.obs_names.is_unique and np.isfinite(data.X.data).all()
    assert data.uns["simulation"]["log_fold_change"].shape == (conditions, 12)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"perturbations": 501}, "501 perturbations of 500 genes"),
        ({"combinations": 46}, "combinations is 46, must be between 0 and 45"),
        ({"contexts": 0}, "contexts is 0"),
        ({"genes": 2.5}, "genes is 2.5"),
        ({"doses": []}, "doses is"),
        ({"doses": [1, 1]}, "doses is"),
        ({"library_size": 0}, "library_size is 0"),
        ({"modality": "drug"}, "modality is drug"),
        ({"interaction_share": 2}, "interaction_share is 2"),
    ],
)
def test_impossible_parameters(parameters: dict, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        simulate(**parameters)
