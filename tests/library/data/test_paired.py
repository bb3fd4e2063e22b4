"""Profiles paired with controls of their own: which controls a fold gives to models and which it holds back."""

import numpy as np
import pandas as pd
import pytest
from small_screen import make_obs, make_screen

from trueshift.contract import ContractError, asked, input_controls
from trueshift.data.canonical.checks import check_pairs
from trueshift.data.genes import select_genes
from trueshift.data.partition import partition
from trueshift.data.qc import quality_control
from trueshift.data.splitting import make_split


def paired_obs(contexts: int = 3) -> pd.DataFrame:
    """Every perturbed profile has a control of its context; some controls serve several, some none."""
    obs = make_obs(contexts=contexts, batches=1, cells=2, controls=12, perturbations=("A", "B", "C", "D", "E"))
    rng = np.random.default_rng(0)
    obs["control_id"] = ""
    for context in obs["context"].unique():
        here = obs["context"] == context
        treated = obs.index[here & ~obs["is_control"]]
        obs.loc[treated, "control_id"] = rng.choice(obs.index[here & obs["is_control"]], len(treated))
    return obs


def fold(obs: pd.DataFrame, entry: dict, name: str):
    data = make_screen(obs, genes=8, kind="profile")
    split = make_split(obs, entry, name)
    parts = partition(data, split, select_genes(data, split, {"flavor": "all"}), {"split": entry})
    return obs.assign(role=split.set_index("cell")["role"].reindex(obs.index)), parts


CELLS = {"type": "kfold_cells", "k": 3}
LINE = {"type": "zero_shot_context", "folds": {"c1": "c1"}}


def test_own_controls_of_the_test_are_input_and_the_others_are_halved() -> None:
    obs, (_, query, truth) = fold(paired_obs(), CELLS, "1")
    controls = obs[obs["is_control"]]
    own = controls.index.isin(obs.loc[obs["role"] == "test", "control_id"])
    assert own.any() and (controls["role"][own] == "control_input").all()
    for _, rest in controls[~own].groupby("context", observed=True):
        counts = rest["role"].value_counts()
        assert counts.get("control_reference", 0) - counts.get("control_input", 0) in (0, 1)
    assert set(query.obs_names) == set(controls.index[controls["role"] == "control_input"])
    table = asked(truth)
    assert table["context_seen"].all()
    rows = input_controls(query)
    for i, condition in table.iterrows():
        of = (obs["role"] == "test") & (obs["context"] == condition["context"])
        of &= (obs["perturbation"] == condition["perturbation"]) & (obs["dose"] == condition["dose"])
        assert set(query.obs_names[rows[i]]) == set(obs.loc[of, "control_id"])


def test_a_context_held_out_whole_is_said_to_be_unseen() -> None:
    obs, (train, _, truth) = fold(paired_obs(), LINE, "c1")
    assert not asked(truth)["context_seen"].any()
    assert set(train.obs["context"]) == {"c0", "c1", "c2"}, "with its input controls"
    reference = truth.obs_names[truth.obs["role"] == "control_reference"]
    assert not set(reference) & set(train.obs_names)
    assert not set(reference) & set(obs.loc[obs["role"] == "test", "control_id"])


def test_a_profile_under_test_without_its_control_is_an_error() -> None:
    obs = paired_obs()
    lost = obs.loc[~obs["is_control"], "control_id"].iloc[0]
    with pytest.raises(ContractError, match=f"no input control of their own.*{lost}"):
        for name in "123":
            make_split(obs.drop(index=lost), CELLS, name)


def test_pairs_are_checked_at_import() -> None:
    obs = paired_obs()
    check_pairs(obs, "set")
    treated = obs.index[~obs["is_control"]]
    broken = obs.copy()
    broken.loc[treated[3], "control_id"] = "nowhere"
    with pytest.raises(ContractError, match=rf"of 1 perturbed profiles it is no control.*{treated[3]} \(nowhere\)"):
        check_pairs(broken, "set")
    broken.loc[treated[3], "control_id"] = treated[4]
    with pytest.raises(ContractError, match="is no control in the data"):
        check_pairs(broken, "set")
    broken = obs.copy()
    other = obs.index[obs["is_control"] & (obs["context"] != obs.loc[treated[0], "context"])][0]
    broken.loc[treated[0], "control_id"] = other
    with pytest.raises(ContractError, match="is a control of another context"):
        check_pairs(broken, "set")


def test_quality_control_removes_no_profile_unless_told() -> None:
    data = make_screen(paired_obs(), genes=8, kind="profile")
    kept, report = quality_control(data, None)
    assert kept.shape == data.shape
    assert (report["settings"]["min_genes"], report["settings"]["min_cells"]) == (0, 0)
    with pytest.raises(ContractError, match="would be removed"):
        quality_control(data, {"min_genes": 9})
