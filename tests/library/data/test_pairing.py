"""Sets of perturbed cells and their matched controls."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_screen import make_obs

from trueshift.contract import ContractError, Pairs, read_pairs, write_pairs
from trueshift.data.pairing import make_pairs, padding
from trueshift.data.splitting import make_split

SPLIT = {"type": "zero_shot_context", "folds": {"a": "c1"}, "validation": 0.2}


def train_obs(**shape: int) -> pd.DataFrame:
    obs = make_obs(**shape)
    roles = make_split(obs, SPLIT, "a")["role"].to_numpy()
    return obs.assign(role=roles)[np.isin(roles, ("train", "val", "control_input"))]


def equal(one: Pairs, two: Pairs) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in one.__dataclass_fields__)


@settings(max_examples=25, deadline=None)
@given(
    cells=st.integers(4, 20),
    controls=st.integers(1, 20),
    set_size=st.integers(1, 16),
    seed=st.integers(0, 99),
)
def test_sets_are_pure_complete_and_matched(cells: int, controls: int, set_size: int, seed: int) -> None:
    obs = train_obs(cells=cells, controls=controls)
    groups = obs[~obs["is_control"]].groupby(["context", "perturbation", "batch", "role"], observed=True).size()
    pairs = make_pairs(obs, set_size, seed)
    assert pairs.perturbed.shape == pairs.control.shape == (sum(-(-n // set_size) for n in groups), set_size)
    assert pairs.perturbed.dtype == pairs.control.dtype == np.int32
    text = obs.astype(dict.fromkeys(("context", "perturbation", "batch", "role"), str))
    for i in range(len(pairs.role)):
        treated, matched = text.iloc[pairs.perturbed[i]], text.iloc[pairs.control[i]]
        for column in ("context", "perturbation", "batch", "role"):
            assert set(treated[column]) == {getattr(pairs, column)[i]}
        assert not treated["is_control"].any() and matched["is_control"].all()
        assert set(matched["context"]) == {pairs.context[i]}
        assert set(matched["batch"]) == {pairs.batch[i]} and pairs.control_scope[i] == "batch"
        size = groups[(pairs.context[i], pairs.perturbation[i], pairs.batch[i], pairs.role[i])]
        assert len(set(pairs.perturbed[i])) == set_size or size < set_size
        assert len(set(pairs.control[i])) == min(set_size, controls)
    assert set(pairs.perturbed.ravel()) == set(np.flatnonzero(~obs["is_control"]))  # every cell is used
    assert set(pairs.role) <= {"train", "val"}
    assert equal(pairs, make_pairs(obs, set_size, seed))


def test_no_test_cell_and_no_reference_control_can_be_paired() -> None:
    obs = train_obs()
    pairs = make_pairs(obs, 4, 0)
    names = set(obs.index[np.unique(np.concatenate([pairs.perturbed, pairs.control]))])
    everything = make_obs()
    split = make_split(everything, SPLIT, "a")
    assert names.isdisjoint(split.loc[split["role"].isin(["test", "control_reference"]), "cell"])


def test_controls_of_the_context_where_the_batch_has_none() -> None:
    obs = train_obs()
    obs = obs[~(obs["is_control"] & (obs["batch"] == "b0") & (obs["context"] == "c0"))]
    pairs = make_pairs(obs, 4, 0)
    wide = (pairs.context == "c0") & (pairs.batch == "b0")
    assert (pairs.control_scope == np.where(wide, "context", "batch")).all()
    assert set(obs.iloc[pairs.control[wide].ravel()]["batch"]) == {"b1"}
    assert set(obs.iloc[pairs.control[wide].ravel()]["context"]) == {"c0"}


def test_controls_are_used_evenly() -> None:
    obs = train_obs(contexts=2, batches=1, cells=80, controls=10)
    pairs = make_pairs(obs, 5, 0)
    one = (pairs.perturbation == "G0") & (pairs.role == "train")
    used = np.unique(pairs.control[one], return_counts=True)[1]
    assert len(used) == 10 and used.max() - used.min() <= 1


def test_doses_are_not_mixed() -> None:
    obs = train_obs(cells=8)
    obs["dose"] = np.where(obs["is_control"], "0", np.where(np.arange(len(obs)) % 2, "1", "10"))
    pairs = make_pairs(obs, 2, 0)
    doses = obs["dose"].to_numpy()[pairs.perturbed]
    assert (doses == doses[:, :1]).all()


def test_a_group_smaller_than_a_set_is_padded_with_its_own_cells() -> None:
    obs = train_obs(contexts=2, batches=1, cells=10)
    sizes = obs[~obs["is_control"]].groupby(["perturbation", "role"], observed=True).size()
    pairs = make_pairs(obs, 64, 0)
    assert len(pairs.role) == len(sizes), "one set for each group"
    for cells, perturbation, role in zip(pairs.perturbed, pairs.perturbation, pairs.role, strict=True):
        assert len(set(cells)) == sizes[perturbation, role]
        assert set(obs.iloc[cells]["perturbation"]) == {perturbation}
    assert padding(pairs) == pytest.approx(1 - sizes.sum() / (64 * len(sizes)))
    assert padding(make_pairs(obs, 1, 0)) == 0


def test_only_a_training_part_without_perturbed_cells_is_refused() -> None:
    obs = train_obs()
    validation_only = obs[obs["is_control"] | (obs["role"] == "val")]
    for part in (obs[obs["is_control"]], validation_only):
        with pytest.raises(ContractError, match="no perturbed cell has role train"):
            make_pairs(part, 4, 0)


def test_seed_and_refusals() -> None:
    obs = train_obs()
    assert not equal(make_pairs(obs, 3, 0), make_pairs(obs, 3, 1))
    with pytest.raises(ContractError, match="set_size is 0"):
        make_pairs(obs, 0, 0)
    with pytest.raises(ContractError, match="context c0 has no control cells"):
        make_pairs(obs[~(obs["is_control"] & (obs["context"] == "c0"))], 2, 0)


def test_pairs_survive_writing(tmp_path: Path) -> None:
    pairs = make_pairs(train_obs(), 3, 0)
    write_pairs(pairs, tmp_path / "pairs_S3.npz")
    assert equal(pairs, read_pairs(tmp_path / "pairs_S3.npz"))
