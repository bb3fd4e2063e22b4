"""Splits of drug profiles: doses and scaffolds held out, cell lines dealt to folds; the audit of what they promise."""

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from trueshift.contract import ContractError, components, write_h5ad
from trueshift.data.audit import audit, check_audit
from trueshift.data.partition import partition
from trueshift.data.roles import read_structures
from trueshift.data.split_checks import check_split
from trueshift.data.split_settings import asks, held_out_unit
from trueshift.data.splitting import make_split

DOSES = ("0.04", "0.12", "0.37", "1.11", "3.33", "10")
# a and b share a scaffold, c and d have no ring, e has another scaffold; f has no structure
STRUCTURES = pd.DataFrame(
    {
        "smiles": ["Cc1ccccc1", "Oc1ccccc1", "CCO", "CCN", "C1CCCCC1"],
        "scaffold": ["c1ccccc1", "c1ccccc1", "", "", "C1CCCCC1"],
    },
    index=list("abcde"),
)


def profiles(
    doses: dict[str, list[str]] | None = None, contexts: int = 2, replicates: int = 1, controls: int = 4
) -> pd.DataFrame:
    """Canonical obs: every drug at its doses in every context, rows shuffled."""
    doses = {name: list(DOSES) for name in "abcdef"} if doses is None else doses
    rows = [
        (label, dose, f"c{c}")
        for c in range(contexts)
        for label, amounts in [("control", ["0"] * controls), *doses.items()]
        for dose in amounts
        for _ in range(1 if label == "control" else replicates)
    ]
    table = pd.DataFrame(rows, columns=["perturbation", "dose", "context"]).assign(batch="plate", modality="drug")
    table["is_control"] = table["perturbation"] == "control"
    table.index = pd.Index([f"p{i:04d}" for i in range(len(table))])
    return table.sample(frac=1, random_state=1)


def split_of(obs: pd.DataFrame, entry: dict[str, Any], fold: str, structures: pd.DataFrame | None = None) -> pd.Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_split(obs, entry, fold, structures).set_index("cell")["role"]


def conditions(obs: pd.DataFrame, wanted: pd.Series) -> set[tuple[str, str]]:
    rows = obs[wanted & ~obs["is_control"]]
    return set(zip(rows["perturbation"], rows["dose"], strict=True))


# --- doses --------------------------------------------------------------------------------------------

doses_of_drugs = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e", "a+b"]),
    st.lists(st.sampled_from(DOSES), min_size=1, max_size=6, unique=True),
    min_size=2,
)


@settings(max_examples=20, deadline=None)
@given(doses=doses_of_drugs, k=st.integers(2, 6), replicates=st.integers(1, 3), data=st.data())
def test_folds_of_doses_keep_one_of_each_perturbation(
    doses: dict[str, list[str]], k: int, replicates: int, data: st.DataObject
) -> None:
    doses = {name: ["+".join([x] * len(components(name))) for x in amounts] for name, amounts in doses.items()}
    obs = profiles(doses, contexts=data.draw(st.integers(1, 3)), replicates=replicates)
    entry = {"type": "unseen_dose", "k": k, "validation": 0, "seed": data.draw(st.integers(0, 9))}
    several = {(name, x) for name, amounts in doses.items() if len(amounts) > 1 for x in amounts}
    if len(several) < k:
        with pytest.raises(ContractError, match=f"{k} folds of {len(several)} doses"):
            split_of(obs, entry, "1")
        return
    tested: list[tuple[str, str]] = []
    sizes = []
    for fold in range(1, k + 1):
        roles = split_of(obs, entry, str(fold))
        held, shown = conditions(obs, roles == "test"), conditions(obs, roles == "train")
        assert held and held.isdisjoint(shown)
        assert {name for name, _ in held} <= {name for name, _ in shown}
        tested += sorted(held)
        sizes.append(len(held))
        assert max(pd.Series([name for name, _ in held]).value_counts()) <= -(-6 // k)
    assert sorted(tested) == sorted(several)  # each once, in one fold; lone doses never
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=25, deadline=None)
@given(validation=st.sampled_from([0.1, 0.3, 0.5]), k=st.integers(2, 4), seed=st.integers(0, 30))
def test_validation_never_takes_the_last_dose(validation: float, k: int, seed: int) -> None:
    """Of profiles in one copy validation takes whole conditions, the only other dose of a drug among them."""
    doses = {name: ["1", "10"] for name in "abcdefgh"} | {name: ["1", "5", "10", "20"] for name in "ijkl"}
    obs = profiles(doses, contexts=1)
    roles = split_of(obs, {"type": "unseen_dose", "k": k, "validation": validation, "seed": seed}, "1")
    tested = set(obs.loc[roles == "test", "perturbation"])
    assert tested <= set(obs.loc[(roles == "train") & ~obs["is_control"], "perturbation"])
    assert (roles == "val").any()


def test_named_doses_are_held_out_of_whom_another_is_known() -> None:
    doses = {"a": ["1", "10"], "b": ["3.33", "10"], "c": ["1"], "d": ["1", "3.33", "10"], "a+b": ["1+10", "1+1"]}
    obs = profiles(doses)
    entry = {"type": "unseen_dose", "folds": {"high": [10, 3.33], "ten": "10.0"}}
    with pytest.warns(UserWarning, match=r"1 of 5 perturbations have no dose but those held out and stay in .*: b$"):
        split = make_split(obs, entry, "high").set_index("cell")["role"]
    assert conditions(obs, split == "test") == {("a", "10"), ("d", "3.33"), ("d", "10"), ("a+b", "1+10")}
    assert {("b", "3.33"), ("b", "10"), ("c", "1")} <= conditions(obs, split.isin(["train", "val"]))
    assert set(obs.loc[split == "test", "context"]) == {"c0", "c1"}  # in every context
    ten = split_of(obs, entry, "ten")
    assert conditions(obs, ten == "test") == {("a", "10"), ("b", "10"), ("d", "10"), ("a+b", "1+10")}
    assert (asks(entry), held_out_unit(entry)) == ("new_dose", "perturbation")


def test_doses_in_one_context_alone_count_in_all() -> None:
    """Drug a has its second dose in c1 only: c0 is tested at a dose that it trains on nowhere."""
    obs = profiles({"a": ["1", "10"], "b": ["1", "10"]})
    obs = obs[~((obs["perturbation"] == "a") & (obs["dose"] == "1") & (obs["context"] == "c0"))]
    roles = split_of(obs, {"type": "unseen_dose", "folds": {"high": 10}, "validation": 0}, "high")
    assert set(obs.index[roles == "test"]) == set(obs.index[obs["dose"] == "10"])
    assert ("a", "1") in conditions(obs, roles == "train")


def test_dose_refusals() -> None:
    obs = profiles({"a": ["1", "10"], "b": ["5"]})
    for entry, message in (
        ({"folds": {"x": 7}}, "fold x: nothing was given at dose 7"),
        ({"folds": {"x": "high"}}, "fold x: dose high is not a number"),
        ({"folds": {"x": [1, 10]}}, "fold x: no perturbation has both a dose of 1, 10 and another"),
        ({"folds": {"x": 5}}, "fold x: no perturbation has both a dose of 5 and another"),
        ({"k": 3}, "3 folds of 2 doses, those of perturbations with more than one; lower k"),
    ):
        with pytest.raises(ContractError, match=message):
            make_split(obs, {"type": "unseen_dose", **entry}, "x" if "folds" in entry else "1")


def test_a_leaked_dose_is_found_and_a_lost_one() -> None:
    obs = profiles(replicates=3)
    for entry in (
        {"type": "unseen_dose", "folds": {"high": 10}},
        {"type": "file", "asks": "new_dose", "folds": {"high": "roles.csv"}},
    ):
        split = make_split(obs, {"type": "unseen_dose", "folds": {"high": 10}}, "high")
        check_split(split, obs, entry)
        for role in ("train", "val"):
            leaky = split.copy()
            leaky.loc[leaky.index[leaky["role"] == "test"][0], "role"] = role
            with pytest.raises(ContractError, match=r"perturbation \w at dose 10 is held out, but .* \(1 such leak"):
                check_split(leaky, obs, entry)
        lost = split.copy()
        of_a = (obs["perturbation"] == "a").to_numpy() & (lost["role"] == "train").to_numpy()
        lost.loc[of_a, "role"] = "val"  # validation chooses, it does not teach
        with pytest.raises(ContractError, match="perturbation a is tested at a dose it never saw, but train has no"):
            check_split(lost, obs, entry)


def test_doses_of_components_written_in_another_order_are_a_leak() -> None:
    obs = profiles({"a+b": ["1+2", "5+5"], "a": ["1"]}, replicates=2)
    entry = {"type": "unseen_dose", "folds": {"x": 2}, "validation": 0}
    split = make_split(obs, entry, "x")
    twisted = obs.copy()
    first = obs.index[(obs["perturbation"] == "a+b") & (obs["dose"] == "5+5")][0]
    twisted.loc[first, ["perturbation", "dose"]] = ["b+a", "2+1"]
    with pytest.raises(ContractError, match=r"perturbation a\+b at dose 1\+2 is held out"):
        check_split(split, twisted, entry)


# --- scaffolds ----------------------------------------------------------------------------------------

SCAFFOLD = {"type": "unseen_scaffold", "k": 3}


def test_drugs_of_one_scaffold_are_held_out_together() -> None:
    obs = profiles()
    together: dict[str, str] = {}
    for fold in "123":
        with pytest.warns(UserWarning, match="1 of 6 drugs have no structure, each is a group of its own: f"):
            split = make_split(obs, SCAFFOLD, fold, STRUCTURES).set_index("cell")["role"]
        held = set(obs.loc[split == "test", "perturbation"])
        assert held.isdisjoint(obs.loc[split.isin(["train", "val"]), "perturbation"])
        together |= dict.fromkeys(held, fold)
    assert set(together) == set("abcdef") and together["a"] == together["b"]
    apart = [split_of(obs, {"type": "unseen_scaffold", "k": 5}, fold, STRUCTURES) for fold in "12345"]
    groups = sorted("".join(sorted(set(obs.loc[roles == "test", "perturbation"]))) for roles in apart)
    assert groups == ["ab", "c", "d", "e", "f"]  # c and d have no ring, which is nothing in common
    assert (asks(SCAFFOLD), held_out_unit(SCAFFOLD)) == ("new_perturbation", "perturbation")


def test_named_scaffolds_take_combinations_along() -> None:
    obs = profiles({"a": ["1", "2"], "b": ["1"], "c": ["1", "2"], "e": ["1", "2"], "c+e": ["1+1"], "b+e": ["1+1"]})
    entry = {"type": "unseen_scaffold", "folds": {"benzenes": ["c1ccccc1"]}}
    split = make_split(obs, entry, "benzenes", STRUCTURES)
    held = set(obs.loc[(split["role"] == "test").to_numpy(), "perturbation"])
    assert held == {"a", "b", "b+e"}
    with pytest.raises(ContractError, match="no drug has the scaffold c1ccccc; did you mean c1ccccc1"):
        make_split(obs, {**entry, "folds": {"benzenes": "c1ccccc"}}, "benzenes", STRUCTURES)


def test_scaffold_refusals() -> None:
    obs = profiles()
    with pytest.raises(ContractError, match="unseen_scaffold needs the structures of drugs"):
        make_split(obs, SCAFFOLD, "1")
    with pytest.raises(ContractError, match="6 folds of 5 scaffolds; lower k"):
        split_of(obs, {"type": "unseen_scaffold", "k": 6}, "1", STRUCTURES)


def test_a_leaked_scaffold_is_found() -> None:
    """All of drug b trains and all of drug a is under test: another drug, the same scaffold."""
    obs = profiles()
    split = make_split(obs, {"type": "unseen_perturbation", "folds": {"x": "a"}}, "x")
    entry = {"type": "unseen_scaffold", "folds": {"x": "c1ccccc1"}}
    with pytest.raises(
        ContractError, match=r"the scaffold of a is held out, but train or val has cells of it \(1 such"
    ):
        check_split(split, obs, entry, STRUCTURES)
    without_rings = make_split(obs, {"type": "unseen_perturbation", "folds": {"x": "c"}}, "x")
    check_split(without_rings, obs, entry, STRUCTURES)  # d trains, which has no ring either


# --- what was there, with profiles --------------------------------------------------------------------


def test_drugs_are_dealt_with_all_their_profiles() -> None:
    obs = profiles(replicates=2)
    folds = [split_of(obs, {"type": "unseen_perturbation", "k": 3}, fold) for fold in "123"]
    held = [set(obs.loc[roles == "test", "perturbation"]) for roles in folds]
    assert sorted(name for names in held for name in names) == list("abcdef")
    for roles, names in zip(folds, held, strict=True):
        assert names.isdisjoint(obs.loc[roles.isin(["train", "val"]), "perturbation"])
        assert (roles[obs["perturbation"].isin(names)] == "test").all()


def test_cell_lines_are_dealt_to_folds_those_without_drugs_left_out() -> None:
    obs = profiles(contexts=5)
    obs = obs[obs["is_control"] | (obs["context"] != "c4")]
    entry = {"type": "zero_shot_context", "k": 2}
    held = [set(obs.loc[split_of(obs, entry, fold) == "test", "context"]) for fold in "12"]
    assert [len(names) for names in held] == [2, 2] and held[0] | held[1] == {"c0", "c1", "c2", "c3"}
    with pytest.raises(ContractError, match="5 folds of 4 contexts; lower k"):
        make_split(obs, {**entry, "k": 5}, "1")


# --- the audit ----------------------------------------------------------------------------------------


def screen(obs: pd.DataFrame, structures: pd.DataFrame | None = STRUCTURES) -> ad.AnnData:
    values = np.random.default_rng(0).random((len(obs), 4)).astype(np.float32)
    uns: dict[str, Any] = {"trueshift": {"schema_version": 1, "dataset": "plate", "kind": "profile"}}
    uns |= {} if structures is None else {"structures": structures}
    return ad.AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=list("ghij")), uns=uns)


def cut(obs: pd.DataFrame, split: pd.Series, entry: dict[str, Any]) -> tuple[ad.AnnData, ad.AnnData]:
    """train and truth, the structures beside train whatever partition passes."""
    adata = screen(obs)
    table = pd.DataFrame({"cell": split.index, "role": split.to_numpy()})
    genes = pd.DataFrame({"gene": adata.var_names, "selected": True})
    train, _, truth = partition(adata, table, genes, {"split": entry})
    train.uns["structures"] = STRUCTURES
    return train, truth


@pytest.mark.parametrize(
    ("entry", "fold", "held"),
    [
        ({"type": "unseen_dose", "k": 3}, "1", {"perturbation at dose", "condition"}),
        ({"type": "unseen_scaffold", "k": 3}, "2", {"scaffold", "perturbation", "all components"}),
    ],
)
def test_promises_are_audited(entry: dict[str, Any], fold: str, held: set[str]) -> None:
    obs = profiles()
    table = audit(*cut(obs, split_of(obs, entry, fold, STRUCTURES), entry), entry).set_index("unit")
    check_audit(table.reset_index(), "here")
    assert (table.loc[sorted(held), "promised"] == "held out").all()
    assert (table.loc[sorted(held), "n_both"] == 0).all() and (
        table.loc[sorted(held - {"scaffold"}), "n_test"] > 0
    ).all()
    shared = table.loc["perturbation"]
    assert (shared["n_both"] > 0) == (entry["type"] == "unseen_dose")


def test_counts_of_drugs_scaffolds_and_plates_on_both_sides() -> None:
    obs = profiles()
    entry = {"type": "unseen_perturbation", "folds": {"x": ["a", "c", "f"]}}
    table = audit(*cut(obs, split_of(obs, entry, "x"), entry), entry).set_index("unit")
    columns = ["n_train", "n_test", "n_both"]
    assert table.loc["component", columns].tolist() == [3, 3, 0]
    assert table.loc["scaffold", columns].tolist() == [2, 1, 1]  # those of b and e; that of a; c has none, f is unknown
    assert table.loc["scaffold", ["example", "verdict"]].tolist() == ["c1ccccc1", "shared; the split says nothing"]
    assert table.loc["batch", columns].tolist() == [1, 1, 1]


def test_a_scaffold_on_both_sides_is_a_leak_only_where_none_is_new() -> None:
    obs = profiles({"a": ["1"], "b": ["1", "2"], "c": ["1"], "e": ["1", "2"], "a+e": ["1+1"]}, replicates=3)
    entry = {"type": "unseen_scaffold", "folds": {"x": "c1ccccc1"}}
    split = split_of(obs, entry, "x", STRUCTURES)
    train, truth = cut(obs, split, entry)
    check_audit(audit(train, truth, entry), "here")  # a+e: that of e is trained on, that of a is not
    train.obs["perturbation"] = train.obs["perturbation"].astype(str).replace({"c": "b"})
    table = audit(train, truth, entry)
    with pytest.raises(ContractError, match=r"unit \w+.* scaffold"):
        check_audit(table, "here")
    assert table.set_index("unit").loc["scaffold", "example"] == "C1CCCCC1, c1ccccc1"


def test_a_leaked_dose_is_refused() -> None:
    obs = profiles()
    entry = {"type": "unseen_dose", "folds": {"high": 10}}
    train, truth = cut(obs, split_of(obs, entry, "high"), entry)
    other = train.obs.index[~train.obs["is_control"]][0]
    train.obs["dose"] = train.obs["dose"].astype(str)
    train.obs.loc[other, "dose"] = "10"
    with pytest.raises(ContractError, match=r"leak: 1 of \d+ .* unit perturbation at dose .* \| 10"):
        check_audit(audit(train, truth, entry), "here")


def test_structures_are_read_without_the_matrix(tmp_path: Path) -> None:
    write_h5ad(screen(profiles()), tmp_path / "with.h5ad")
    write_h5ad(screen(profiles(), None), tmp_path / "without.h5ad")
    pd.testing.assert_frame_equal(read_structures(tmp_path / "with.h5ad"), STRUCTURES, check_names=False)
    assert read_structures(tmp_path / "without.h5ad") is None
