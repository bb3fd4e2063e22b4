"""Where cell-eval's conventions and ours part on purpose; all else is compared in test_benchmark.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score

BASE = np.linspace(0.5, 4, 30)


def moved(share: float, by: float = 3.0, first: int = 0) -> np.ndarray:
    """Rates in which a share of the genes, from ``first`` on, is raised."""
    rate = BASE.copy()
    rate[first : first + int(share * len(rate))] += by
    return rate


def test_a_prediction_of_no_effect_scores_zero_and_not_nothing(screen: Callable, tmp_path: Path) -> None:
    """Every predicted cell is the mean input control: cell-eval's correlation is NaN, ours 0 and marked."""
    made = screen({"P": moved(0.3), "Q": moved(0.2, first=12)}, {"P": BASE, "Q": BASE}, BASE)
    mean = made.control_input.mean(axis=0, dtype=np.float64).astype(np.float32)
    same = made._replace(predicted={label: np.tile(mean, (60, 1)) for label in "PQ"})
    ours, _ = same.ours()
    theirs = same.theirs(tmp_path, "anndata")
    assert (ours["value", "pearson_delta"] == 0).all()
    assert ours["flags", "pearson_delta"].str.contains("constant_prediction").all()
    assert theirs["pearson_delta"].isna().all()
    np.testing.assert_allclose(ours["value", "mse"].astype(float), theirs["mse"], rtol=1e-5)


def test_equal_true_effects_share_a_place(screen: Callable, tmp_path: Path) -> None:
    """Two conditions with the same true cells: cell-eval gives the better place to the first by name, as its PDS of
    the challenge does (vcc2025_pds agrees); ours gives both the mean place."""
    rates = {"P": moved(0.3), "Q": moved(0.3), "R": moved(0.2, first=15)}
    made = screen(rates, rates, BASE)
    made = made._replace(true={**made.true, "Q": made.true["P"]})
    ours, _ = made.ours()
    theirs = made.theirs(tmp_path, "anndata")
    assert theirs["discrimination_score_l1"].to_dict() == pytest.approx({"P": 1, "Q": 2 / 3, "R": 1})
    np.testing.assert_allclose(ours["value", "vcc2025_pds"].astype(float), theirs["discrimination_score_l1"])
    assert ours["value", "pds_l1"].to_dict() == {"P": 0.75, "Q": 0.75, "R": 1}


def test_own_target_is_left_out_of_the_distance(screen: Callable, tmp_path: Path) -> None:
    """Perturbations named after genes, which fall in truth and rise in the prediction: with them every own truth is
    the farthest (Euclidean); both programs leave the own target out. Place out of n − 1 in ours, out of n in theirs."""
    rng = np.random.default_rng(1)
    true, predicted = {}, {}
    genes = [f"gene{i:02d}" for i in range(len(BASE))]
    for i in range(20, 26):
        rate = BASE * np.exp(rng.normal(0, 0.4, len(BASE)))
        own = np.arange(len(BASE)) == i
        true[genes[i]], predicted[genes[i]] = np.where(own, 0.01, rate), np.where(own, 60, rate)
    made = screen(true, predicted, BASE, genes)
    delta, delta_hat = (
        np.stack([side[name].mean(axis=0) for name in sorted(side)]) - controls.mean(axis=0)
        for side, controls in ((made.true, made.control_reference), (made.predicted, made.control_input))
    )
    assert (cdist(delta_hat, delta).argmax(axis=1) == np.arange(6)).all()
    ours, _ = made.ours()
    theirs = made.theirs(tmp_path, "anndata")
    for form in ("l1", "l2", "cosine"):
        place = 6 * (1 - theirs[f"discrimination_score_{form}"])
        np.testing.assert_allclose(ours["value", f"pds_{form}"].astype(float), 1 - place / 5, atol=1e-12)
    assert (ours["value", "pds_l2"] == 1).all()


def test_without_true_degs_shares_are_undefined(screen: Callable, tmp_path: Path) -> None:
    """A condition without effect: cell-eval's overlaps are 0 as if the prediction were wrong; ours have no value."""
    made = screen({"P": BASE, "Q": moved(0.3)}, {"P": moved(0.2), "Q": moved(0.3)}, BASE)
    ours, truth = made.ours()
    theirs = made.theirs(tmp_path, "de")
    assert truth.conditions["n_deg"].tolist()[0] == 0
    assert theirs.loc["P", "overlap_at_N"] == 0
    for metric in ("de_overlap", "de_recall", "de_precision", "de_pr_auc", "vcc2025_overlap", "effect_overlap"):
        assert pd.isna(ours["value", metric]["P"])
        assert ours["reason", metric]["P"] == "no effect"
    assert ours["value", "de_recall"]["Q"] > 0.8


def test_areas_use_p_values_below_cell_evals_floor(screen: Callable, tmp_path: Path) -> None:
    """cell-eval takes p below 1e-10 as equal; ours does not. scikit-learn gives both values from cell-eval's p, whose
    continuity correction changes no order here."""
    rate = np.concatenate([BASE[:10] + 8, BASE[10:]])
    guess = np.concatenate([BASE[:4] + 8, BASE[4:20], BASE[20:] + 9])
    made = screen({"P": rate, "Q": rate}, {"P": guess, "Q": guess}, BASE)
    ours, truth = made.ours()
    theirs = made.theirs(tmp_path, "de")
    table = pd.read_csv(tmp_path / "pred_de.csv").pivot(index="target", columns="feature", values="fdr")
    p = table[truth.genes].to_numpy()
    assert (p < 1e-10).sum(axis=1).min() > 5
    degs = truth.p_adjusted < 0.05
    for i, label in enumerate(("P", "Q")):
        floored = -np.log10(np.clip(p[i], 1e-10, 1))
        assert np.isclose(theirs["pr_auc"][label], average_precision_score(degs[i], floored), atol=1e-6)
        assert np.isclose(ours["value", "de_pr_auc"][label], average_precision_score(degs[i], -p[i]), atol=1e-12)
        assert np.isclose(ours["value", "de_roc_auc"][label], roc_auc_score(degs[i], -p[i]), atol=1e-12)
        assert abs(ours["value", "de_pr_auc"][label] - theirs["pr_auc"][label]) > 0.01
