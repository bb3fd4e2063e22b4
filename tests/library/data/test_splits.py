"""Roles of cells: what each split holds out, how controls are halved, and every way it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_screen import PERTURBATIONS, make_obs

from trueshift.contract import ContractError, components
from trueshift.data.roles import conditions_asked, describe_split, fitting_cells, read_split, roles_of
from trueshift.data.split_checks import check_split
from trueshift.data.split_settings import asks, held_out_unit
from trueshift.data.splitting import make_split

EVERY = {
    "kfold_cells": ({"type": "kfold_cells", "k": 3}, "2"),
    "unseen_perturbation": ({"type": "unseen_perturbation", "k": 3}, "1"),
    "unseen_combination": ({"type": "unseen_combination", "k": 3}, "3"),
    "underrepresented_context": ({"type": "underrepresented_context", "folds": {"a": "c1"}}, "a"),
    "zero_shot_context": ({"type": "zero_shot_context", "folds": {"a": ["c0", "c2"]}}, "a"),
    "zero_shot_context by k": ({"type": "zero_shot_context", "k": 3}, "2"),
}


def roles_by_cell(obs: pd.DataFrame, chosen: dict[str, Any], fold: str) -> pd.Series:
    split = make_split(obs, chosen, fold)
    assert split["cell"].tolist() == obs.index.tolist()
    return pd.Series(split["role"].to_numpy(), index=obs.index)


# --- properties of every split ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_split_covers_halves_and_repeats(kind: str, data: st.DataObject) -> None:
    obs = make_obs(
        contexts=3,
        batches=data.draw(st.integers(1, 3)),
        cells=data.draw(st.integers(2, 7)),
        controls=data.draw(st.integers(1, 8)),
    )
    chosen, fold = EVERY[kind]
    chosen = {**chosen, "seed": data.draw(st.integers(0, 99)), "validation": data.draw(st.sampled_from([0.1, 0.5]))}
    roles = roles_by_cell(obs, chosen, fold)
    control = obs["is_control"]
    assert set(roles[~control]) == {"train", "val", "test"}
    tested = obs["context"].isin(obs.loc[roles == "test", "context"])
    assert set(roles[control & tested]) <= {"control_input", "control_reference"}
    assert set(roles[control & ~tested]) <= {"train"}
    halves = obs[control & tested].assign(given=roles == "control_input")
    for _, group in halves.groupby(["context", "batch"], observed=True):
        assert group["given"].sum() - (~group["given"]).sum() in (0, 1)  # the odd one is input
    # rows in another order: the same roles
    shuffled = obs.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(roles_by_cell(shuffled, chosen, fold).loc[obs.index], roles)


@pytest.mark.parametrize("kind", EVERY)
def test_validation_leaves_every_condition_in_training(kind: str) -> None:
    obs = make_obs(cells=5)
    chosen, fold = EVERY[kind]
    roles = roles_by_cell(obs, {**chosen, "validation": 0.5}, fold)
    learnt = obs[roles.isin(["train", "val"]) & ~obs["is_control"]]
    per_condition = (roles == "val")[learnt.index].groupby([learnt["context"], learnt["perturbation"]], observed=True)
    assert per_condition.mean().max() < 1
    assert per_condition.sum().sum() == pytest.approx(len(learnt) / 2, abs=1)


def test_validation_is_spread_over_conditions_in_its_share() -> None:
    obs = make_obs(cells=40)
    roles = roles_by_cell(obs, {"type": "zero_shot_context", "folds": {"a": "c0"}, "validation": 0.1}, "a")
    learnt = obs[roles.isin(["train", "val"]) & ~obs["is_control"]]
    number = (roles == "val")[learnt.index].groupby([learnt["context"], learnt["perturbation"]], observed=True).sum()
    assert set(number[number.index.get_level_values(0) != "c0"]) <= {7, 8, 9}  # 80 cells a condition
    none = roles_by_cell(obs, {"type": "zero_shot_context", "folds": {"a": "c0"}, "validation": 0}, "a")
    assert not (none == "val").any()


def test_validation_of_profiles_takes_whole_conditions() -> None:
    obs = make_obs(contexts=4, batches=1, cells=1)
    roles = roles_by_cell(obs, {"type": "zero_shot_context", "folds": {"a": "c0"}, "validation": 0.25}, "a")
    assert (roles == "val").sum() == 6
    with pytest.raises(
        ContractError, match="no perturbed cell has role val; raise validation, or declare validation: 0"
    ):
        few = make_obs(contexts=2, batches=1, cells=1, perturbations=("G0", "G1"))
        for seed in range(20):  # 0.01 of two cells is nearly always none
            make_split(few, {"type": "zero_shot_context", "folds": {"a": "c0"}, "validation": 0.01, "seed": seed}, "a")


def test_halves_of_controls_do_not_depend_on_the_fold() -> None:
    obs = make_obs()
    chosen = {"type": "kfold_cells", "k": 4}
    control = obs["is_control"]
    one, two = (roles_by_cell(obs, chosen, fold)[control] for fold in ("1", "3"))
    pd.testing.assert_series_equal(one, two)
    context = {"type": "zero_shot_context", "folds": {"a": "c0", "b": ["c0", "c1"]}}
    a, b = (roles_by_cell(obs, context, fold)[control & (obs["context"] == "c0")] for fold in "ab")
    pd.testing.assert_series_equal(a, b)
    pd.testing.assert_series_equal(a, one[a.index])  # nor on the type of the split
    other = roles_by_cell(obs, {**chosen, "seed": 1}, "1")[control]
    assert (other != one).any()


# --- what each type holds out -------------------------------------------------------------------------


def test_kfold_tests_every_perturbed_cell_once_and_evenly() -> None:
    obs = make_obs(cells=7)
    folds = [roles_by_cell(obs, {"type": "kfold_cells", "k": 3}, str(i)) == "test" for i in (1, 2, 3)]
    assert (sum(fold.astype(int) for fold in folds)[~obs["is_control"]] == 1).all()
    for fold in folds:
        per_condition = fold[~obs["is_control"]].groupby([obs["context"], obs["perturbation"]], observed=True).sum()
        assert set(per_condition) <= {4, 5}  # a third of 14 cells


def test_unseen_perturbation_takes_its_combinations_along() -> None:
    obs = make_obs()
    chosen = {"type": "unseen_perturbation", "folds": {"a": ["G0", "G4"]}}
    roles = roles_by_cell(obs, chosen, "a")
    assert set(obs.loc[roles == "test", "perturbation"]) == {"G0", "G4", "G0+G1"}
    labels = obs.loc[roles.isin(["train", "val"]), "perturbation"].unique()
    assert {"G0", "G4"}.isdisjoint(part for label in labels for part in components(label))
    table = conditions_asked(obs, roles.to_numpy()).drop_duplicates("perturbation").set_index("perturbation")
    assert table["n_seen"].to_dict() == {"G0": 0, "G4": 0, "G0+G1": 1}


def test_k_folds_of_perturbations_and_combinations_test_each_one() -> None:
    obs = make_obs()
    single = {
        label: [f for f in "1234" if label in held_out(obs, "unseen_perturbation", 4, f)] for label in ("G0", "G5+G6")
    }
    assert len(single["G0"]) == 1
    assert 1 <= len(single["G5+G6"]) <= 2
    combined = [held_out(obs, "unseen_combination", 3, f) for f in "123"]
    assert sorted(label for fold in combined for label in fold) == ["G0+G1", "G2+G3", "G5+G6"]


def held_out(obs: pd.DataFrame, kind: str, k: int, fold: str) -> set[str]:
    roles = roles_by_cell(obs, {"type": kind, "k": k}, fold)
    return set(obs.loc[roles == "test", "perturbation"])


def test_unseen_combination_keeps_singles_and_counts_what_was_seen() -> None:
    obs = make_obs()
    roles = roles_by_cell(obs, {"type": "unseen_combination", "folds": {"a": ["G1+G0", "G5+G6"]}}, "a")
    assert set(obs.loc[roles == "test", "perturbation"]) == {"G0+G1", "G5+G6"}
    learnt = set(obs.loc[roles.isin(["train", "val"]) & ~obs["is_control"], "perturbation"])
    assert learnt == set(PERTURBATIONS) - {"G0+G1", "G5+G6"}
    split = pd.DataFrame({"cell": obs.index, "role": roles.to_numpy()})
    lines = describe_split(split, obs)
    assert "test conditions, 2-fold perturbations: 6 (3 with 0 seen, 0 with 1 seen, 3 with 2 seen)" in lines


def test_underrepresented_context_keeps_alpha() -> None:
    obs = make_obs()
    roles = roles_by_cell(obs, {"type": "underrepresented_context", "folds": {"a": "c1"}, "alpha": 0.3}, "a")
    here = (obs["context"] == "c1") & ~obs["is_control"]
    kept = set(obs.loc[here & (roles != "test"), "perturbation"])
    held = set(obs.loc[here & (roles == "test"), "perturbation"])
    assert len(kept) == 2  # .3 of 8
    assert held == set(PERTURBATIONS) - kept
    assert not (roles[obs["context"] != "c1"] == "test").any()
    others = {"type": "underrepresented_context", "folds": {"b": "c0", "a": "c1"}}
    pd.testing.assert_series_equal(roles_by_cell(obs, others, "a") == "test", roles == "test")


def test_zero_shot_context_has_no_perturbed_training_cell() -> None:
    obs = make_obs()
    roles = roles_by_cell(obs, *EVERY["zero_shot_context"])
    held = obs["context"].isin(["c0", "c2"])
    assert (roles[held & ~obs["is_control"]] == "test").all()
    assert set(roles[~held]) == {"train", "val"}
    fit = fitting_cells(roles.to_numpy(), obs)
    assert not fit[held].any()
    assert (fit == (roles == "train")).all()


def test_input_controls_of_partly_trained_contexts_may_be_fitted_on() -> None:
    obs = make_obs()
    roles = roles_by_cell(obs, *EVERY["kfold_cells"])
    assert (fitting_cells(roles.to_numpy(), obs) == roles.isin(["train", "control_input"])).all()


def test_asked_conditions_are_sorted_and_counted() -> None:
    obs = make_obs(batches=2, cells=6)
    table = conditions_asked(obs, roles_by_cell(obs, *EVERY["zero_shot_context"]).to_numpy())
    assert list(table.columns) == ["context", "perturbation", "dose", "modality", "n_cells", "n_seen"]
    assert table[["context", "perturbation", "dose"]].apply(tuple, axis=1).is_monotonic_increasing
    assert set(table["n_cells"]) == {12}
    assert set(table["modality"]) == {"CRISPRi"}
    seen = table.drop_duplicates("perturbation").set_index("perturbation")["n_seen"]
    assert (seen["G0"], seen["G0+G1"], seen["G5+G6"]) == (1, 2, 2)  # each trained in context c1


def test_lone_controls_are_input_and_counted() -> None:
    obs = make_obs(controls=1)
    split = make_split(obs, {"type": "zero_shot_context", "folds": {"a": "c0"}}, "a")
    lines = describe_split(split, obs)
    assert any(
        line.startswith("controls of c0: 2 input, 0 reference, 2 batches with one control (input)") for line in lines
    )
    assert "no reference" in lines[-1]


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "fold", "message"),
    [
        ({"type": "zero_shot"}, "a", "no type zero_shot; did you mean zero_shot_context"),
        ({"type": "kfold_cells", "k": 3, "sede": 1}, "1", "no setting sede; did you mean seed"),
        ({"type": "kfold_cells", "k": 3}, "4", "no fold 4"),
        ({"type": "kfold_cells", "k": 1}, "1", "k is 1"),
        ({"type": "kfold_cells"}, "6", "no fold 6"),  # k is 5 where nothing is said
        ({"type": "kfold_cells", "folds": {"a": "x"}}, "a", "kfold_cells: no setting folds"),
        ({"type": "kfold_cells", "k": 2, "validation": 0.8}, "1", "validation"),
        ({"type": "unseen_perturbation", "k": 2, "folds": {"a": "G0"}}, "1", "both k and folds"),
        ({"type": "unseen_perturbation", "k": 99}, "1", "99 folds of 7 perturbations"),
        ({"type": "unseen_perturbation", "folds": {"a": ["G9"]}}, "a", "no single perturbation G9; did you mean G"),
        ({"type": "unseen_combination", "folds": {"a": ["G0+G2"]}}, "a", r"no combination G0\+G2; did you mean G"),
        ({"type": "underrepresented_context", "k": 2}, "1", "underrepresented_context: no setting k"),
        ({"type": "underrepresented_context"}, "1", "needs folds"),
        ({"type": "zero_shot_context", "k": 4}, "1", "4 folds of 3 contexts; lower k"),
        ({"type": "zero_shot_context", "folds": {"first": "c0"}}, "frist", "no fold frist; did you mean first"),
        ({"type": "zero_shot_context", "folds": {"a": "c7"}}, "a", "no context c7; did you mean c"),
        ({"type": "zero_shot_context", "folds": {"a": ["c0", "c1", "c2"]}}, "a", "no perturbed cell has role train"),
        ({"type": "underrepresented_context", "folds": {"a": ["c0", "c1"]}}, "a", "one context a fold"),
        ({"type": "underrepresented_context", "folds": {"a": "c0"}, "alpha": 1.0}, "a", "none is left to test"),
        (
            {"type": "zero_shot_context", "folds": {"a": "c0"}, "asks": "seen"},
            "a",
            "no setting asks",
        ),
        ({"type": "file", "folds": {"a": "nowhere.csv"}}, "a", "nowhere.csv: no such file"),
    ],
)
def test_refusals(chosen: dict[str, Any], fold: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make_split(make_obs(), chosen, fold)


def test_refuses_contexts_without_what_a_test_needs() -> None:
    obs = make_obs()
    zero = {"type": "zero_shot_context", "folds": {"a": "c0"}}
    with pytest.raises(ContractError, match="context c0 is tested but has no control cells"):
        make_split(obs[~((obs["context"] == "c0") & obs["is_control"])], zero, "a")
    with pytest.raises(ContractError, match="context c0 has no perturbed cells"):
        make_split(obs[(obs["context"] != "c0") | obs["is_control"]], zero, "a")
    with pytest.raises(ContractError, match="no combination"):
        make_split(make_obs(perturbations=("G0", "G1")), {"type": "unseen_combination", "k": 2}, "1")


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "kfold_cells"])
def test_a_single_leaked_cell_is_found(kind: str) -> None:
    obs = make_obs()
    chosen, fold = EVERY[kind]
    split = make_split(obs, chosen, fold)
    check_split(split, obs, chosen)
    for role in ("train", "val"):
        leaky = split.copy()
        leaky.loc[leaky.index[leaky["role"] == "test"][0], "role"] = role
        with pytest.raises(ContractError, match=r"is held out, but train or val has cells of it \(1 such leak"):
            check_split(leaky, obs, chosen)


def test_a_combination_written_in_another_order_is_a_leak() -> None:
    obs = make_obs()
    chosen = {"type": "unseen_combination", "folds": {"a": ["G0+G1"]}}
    split = make_split(obs, chosen, "a")
    twisted = obs.copy()
    twisted["perturbation"] = twisted["perturbation"].astype(str)
    twisted.loc[(twisted["perturbation"] == "G2+G3"), "perturbation"] = "G1+G0"
    with pytest.raises(ContractError, match=r"combination G0\+G1 is held out"):
        check_split(split, twisted, chosen)


def test_moved_controls_are_found() -> None:
    obs = make_obs()
    chosen, fold = EVERY["zero_shot_context"]
    split = make_split(obs, chosen, fold)
    swapped = split.replace({"control_input": "control_reference", "control_reference": "control_input"})
    with pytest.raises(ContractError, match="not in the half that seed 0 gives them"):
        check_split(swapped, obs, chosen)
    for old, new, message in (
        ("control_input", "train", "but that context is tested"),
        ("control_input", "test", "controls are control_input or control_reference"),
        ("test", "control_input", "is perturbed .* but has a control's role"),
        ("train", "tset", "no role tset; did you mean test"),
    ):
        wrong = split.copy()
        wrong.loc[wrong.index[wrong["role"] == old][0], "role"] = new
        with pytest.raises(ContractError, match=message):
            check_split(wrong, obs, chosen)


def test_a_split_of_other_cells_is_refused() -> None:
    obs = make_obs()
    chosen, fold = EVERY["zero_shot_context"]
    split = make_split(obs, chosen, fold)
    with pytest.raises(ContractError, match=r"342 of 342 cells of the data have no role \(first cell0"):
        check_split(split.assign(cell="x" + split["cell"]), obs, chosen)
    with pytest.raises(ContractError, match=r"0 of 341 cells .* have no role and 1 of 342"):
        check_split(split, obs.iloc[1:], chosen)
    with pytest.raises(ContractError, match="more than one role"):
        check_split(pd.concat([split, split.iloc[:1]]), obs, chosen)


# --- files of the user --------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path, dict[str, Any]]:
    obs = make_obs()
    obs.index = pd.Index([f"{i:05d}" for i in range(len(obs))])  # ids that look like numbers
    table = make_split(obs, *EVERY["zero_shot_context"])
    return obs, table, tmp_path / "mine.csv", {"type": "file", "folds": {"a": str(tmp_path / "mine.csv")}}


def test_file_with_and_without_controls(file: tuple[pd.DataFrame, pd.DataFrame, Path, dict[str, Any]]) -> None:
    obs, table, path, chosen = file
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(make_split(obs, {**chosen, "asks": "new_context"}, "a"), table)
    table[~obs["is_control"].to_numpy()].sample(frac=1, random_state=0).to_csv(path, index=False)
    pd.testing.assert_frame_equal(make_split(obs, chosen, "a"), table)  # halved here, by the same seed
    swapped = table.replace({"control_input": "control_reference", "control_reference": "control_input"})
    swapped.to_csv(path, index=False)
    pd.testing.assert_frame_equal(make_split(obs, chosen, "a"), swapped)  # the user's halves stand


def test_file_may_list_cells_that_qc_removed(file: tuple[pd.DataFrame, pd.DataFrame, Path, dict[str, Any]]) -> None:
    obs, table, path, chosen = file
    table[~obs["is_control"].to_numpy()].to_csv(path, index=False)
    gone = np.flatnonzero(~obs["is_control"])[:3]
    kept = obs.drop(index=obs.index[gone])
    with pytest.warns(UserWarning, match="3 of .* cell ids are not in the data"):
        split = make_split(kept, chosen, "a")
    assert (roles_of(split, kept) == table["role"].drop(index=gone)).all()


def test_file_refusals(file: tuple[pd.DataFrame, pd.DataFrame, Path, dict[str, Any]]) -> None:
    obs, table, path, chosen = file
    perturbed = ~obs["is_control"].to_numpy()
    first_test = table.index[table["role"] == "test"][0]
    cases = [
        (table.assign(cell=table["cell"].str.lstrip("0") + "-1"), {}, "none of its .* cell ids is in the data"),
        (table[perturbed].iloc[2:], {}, "2 of 288 perturbed cells have no role, first "),
        (table.drop(index=table.index[~perturbed][:1]), {}, "1 of 54 control cells have no role"),
        (pd.concat([table, table.iloc[:1]]), {}, "has 2 rows; keep one"),
        (table.rename(columns={"cell": "cells"}), {}, "no column cell; did you mean cells"),
        (table.replace({"role": {"val": "valid"}}), {}, "has role 'valid'; did you mean val"),
        (table.replace({"role": {"val": "train"}}), {}, "give the file such cells, or declare validation: 0"),
        (
            table.assign(role=table["role"].where(table.index != first_test, "train")),
            {"asks": "new_context"},
            "is held out",
        ),
        (table.assign(role=table["role"].replace({"control_reference": "train"})), {}, "halved into control_input"),
    ]
    for content, extra, message in cases:
        content.to_csv(path, index=False)
        with pytest.raises(ContractError, match=message):
            make_split(obs, {**chosen, **extra}, "a")


def test_split_csv_keeps_ids_as_text(tmp_path: Path) -> None:
    split = pd.DataFrame({"cell": ["007", "NA", "1e5"], "role": ["train", "val", "test"]})
    split.to_csv(tmp_path / "split.csv", index=False)
    pd.testing.assert_frame_equal(read_split(tmp_path / "split.csv"), split)
    with pytest.raises(ContractError, match="no such file"):
        read_split(tmp_path / "none.csv")


# --- units --------------------------------------------------------------------------------------------


def test_held_out_units() -> None:
    units = {kind: held_out_unit(chosen) for kind, (chosen, _) in EVERY.items()}
    assert {units.pop("zero_shot_context"), units.pop("zero_shot_context by k")} == {"context"}
    assert set(units.values()) == {"perturbation"}
    assert held_out_unit({"type": "file", "asks": "new_context"}) == "context"
    assert held_out_unit({"type": "file", "cluster": "batch"}) == "batch"
    assert (asks({"type": "file"}), asks({"type": "kfold_cells"})) == ("seen", "seen")
    with pytest.raises(ContractError, match="no column donor"):
        held_out_unit({"type": "kfold_cells", "cluster": "donor"})
