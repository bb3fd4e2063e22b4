"""What every model of the registry must do, whatever it is."""

import copy
import functools
import inspect
import json
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screen import QUESTIONS, Screen

from trueshift import gpu
from trueshift.contract import CONDITION, ContractError, Pairs, check_prediction, dense, input_controls, metadata
from trueshift.models.base import Model, Query, Training, build
from trueshift.tracking import Run

FLOOR = "trueshift.models.no_change.NoChange"  # the one model that is not to beat itself


@functools.cache
def screen(kind: str) -> Screen:
    return Screen(kind)


def pairs_for(entry: dict, kind: str) -> Pairs | None:
    return screen(kind).pairs(entry["settings"]["params"]["set_size"]) if "pairs" in entry["needs"] else None


@functools.cache
def _fitted(text: str, kind: str, seed: int, again: int) -> Model:
    entry = json.loads(text)
    model = build(entry["settings"], seed)
    returned = model.fit(Training(screen(kind).train.copy(), pairs_for(entry, kind)), Run())
    assert returned is model, "fit must return self"
    return model


def fitted(entry: dict, kind: str | None = None, seed: int = 0, again: int = 0) -> Model:
    """A trained model; trained once for all tests that ask for the same."""
    return _fitted(json.dumps(entry), kind or entry["kinds"][0], seed, again)


def ask(entry: dict, ability: str, kind: str | None = None) -> ad.AnnData:
    return screen(kind or entry["kinds"][0]).query(QUESTIONS[ability])


def profiles(prediction: ad.AnnData, query: ad.AnnData) -> np.ndarray:
    """One mean profile per asked condition, in the order asked, shape (C, G)."""
    values = pd.DataFrame(dense(prediction.X).astype(np.float64))
    keys = [prediction.obs[column].astype(str).to_numpy() for column in CONDITION]
    means = values.groupby(keys).mean()
    wanted = query.uns["conditions"][CONDITION].astype(str)
    return means.loc[list(wanted.itertuples(index=False, name=None))].to_numpy()


def snapshot(adata: ad.AnnData) -> dict:
    return {
        "X": dense(adata.X).copy(),
        "layers": {name: dense(value).copy() for name, value in adata.layers.items()},
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "obsm": sorted(adata.obsm),
        "varm": sorted(adata.varm),
        "obsp": sorted(adata.obsp),
        "uns": copy.deepcopy(dict(adata.uns)),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        return a.equals(b) and (a.dtypes == b.dtypes).all()
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b


def test_constructor_only_stores_hyperparameters(entry: dict) -> None:
    model = build(entry["settings"], 3)
    names = {name for name in inspect.signature(type(model).__init__).parameters if name not in ("self", "kwargs")}
    assert set(vars(model)) == names | {"seed"}
    assert model.seed == 3
    for name, value in entry["settings"]["params"].items():
        assert getattr(model, name) == value


def test_every_variant_is_accepted(entry: dict) -> None:
    for variant in entry.get("variants", {}).values():
        changes = {name: value for name, value in variant.items() if name != "base"}  # a word of the registry
        params = {**entry.get("params", {}), **changes}
        model = build({"class": entry["class"], "params": params}, 0)
        assert {name: getattr(model, name) for name in changes} == changes


def test_is_not_trained_by_the_constructor(entry: dict) -> None:
    with pytest.raises(ContractError):
        build(entry["settings"], 0).predict(Query(ask(entry, "seen")))


@pytest.mark.parametrize("ability", QUESTIONS)
def test_answers_what_it_can_and_refuses_the_rest(entry: dict, ability: str) -> None:
    model, query = fitted(entry), ask(entry, ability)
    if ability not in entry["can"]:
        with pytest.raises(ContractError):
            model.predict(Query(query))
        return
    prediction = model.predict(Query(query))
    check_prediction(prediction, query, "prediction")
    assert metadata(prediction)["output"] == entry["output"]


def test_answers_every_kind_it_declares(entry: dict) -> None:
    for kind in entry["kinds"]:
        query = ask(entry, "seen", kind)
        check_prediction(fitted(entry, kind).predict(Query(query)), query, "prediction")


def test_same_seed_same_bits(entry: dict) -> None:
    query = ask(entry, "seen")
    first, second = fitted(entry).predict(Query(query)), fitted(entry, again=1).predict(Query(query))
    assert np.array_equal(dense(first.X), dense(second.X))
    assert np.array_equal(dense(first.X), dense(fitted(entry).predict(Query(query)).X)), "a second answer differs"


def test_seed_matters_only_as_declared(entry: dict) -> None:
    query = ask(entry, "seen")
    one, other = dense(fitted(entry).predict(Query(query)).X), dense(fitted(entry, seed=1).predict(Query(query)).X)
    assert np.array_equal(one, other) == entry["deterministic"]


def test_saves_and_loads_without_pickle(entry: dict, tmp_path: Path) -> None:
    model, query = fitted(entry), ask(entry, "seen")
    model.save(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files, "nothing was saved"
    for path in files:
        _refuse_pickle(path)
    loaded = build(entry["settings"], 0)
    assert loaded.load(tmp_path) is loaded
    assert np.array_equal(dense(model.predict(Query(query)).X), dense(loaded.predict(Query(query)).X))


def _refuse_pickle(path: Path) -> None:
    assert path.suffix not in (".pkl", ".pickle", ".joblib", ".dill")
    head = path.read_bytes()[:2]
    assert not (head[:1] == b"\x80" and head[1:] in b"\x02\x03\x04\x05"), f"{path.name} is a pickle"
    if path.suffix in (".npz", ".npy"):
        loaded = np.load(path, allow_pickle=False)
        for name in loaded.files if path.suffix == ".npz" else []:
            assert loaded[name].dtype != object
    elif zipfile.is_zipfile(path):
        import torch

        torch.load(path, weights_only=True, map_location="cpu")


def test_leaves_its_input_as_it_was(entry: dict) -> None:
    kind = entry["kinds"][0]
    train, query = screen(kind).train.copy(), ask(entry, "seen")
    before_train, before_query = snapshot(train), snapshot(query)
    model = build(entry["settings"], 0).fit(Training(train, pairs_for(entry, kind)), Run())
    model.predict(Query(query))
    for what, before, after in (("train", before_train, snapshot(train)), ("query", before_query, snapshot(query))):
        changed = [part for part in before if not same(before[part], after[part])]
        assert not changed, f"{what}: {changed} changed"


def test_order_of_the_question_is_the_order_of_the_answer(entry: dict) -> None:
    conditions = QUESTIONS["seen"]
    forth, back = (screen(entry["kinds"][0]).query(c) for c in (conditions, conditions[::-1]))
    one, other = fitted(entry).predict(Query(forth)), fitted(entry).predict(Query(back))
    check_prediction(other, back, "prediction")
    if entry["output"] == "profile":
        assert np.array_equal(dense(one.X), dense(other.X)[::-1])


def test_asks_for_what_it_needs(entry: dict) -> None:
    kind = entry["kinds"][0]
    if "features" in entry["needs"]:
        bare = screen(kind).train[:, 6:].copy()  # neither tables nor the target genes
        del bare.uns["perturbation_features"]
        with pytest.raises(ContractError, match="features"):
            build(entry["settings"], 0).fit(Training(bare, pairs_for(entry, kind)), Run())
    if "structures" in entry["needs"]:
        bare = screen(kind).train.copy()
        del bare.uns["structures"]
        with pytest.raises(ContractError, match="structures"):
            build(entry["settings"], 0).fit(Training(bare, pairs_for(entry, kind)), Run())
    if "pairs" in entry["needs"]:
        with pytest.raises(ContractError, match="pairs"):
            build(entry["settings"], 0).fit(Training(screen(kind).train.copy()), Run())


def test_asks_for_sums_in_a_fixed_order_before_it_computes_on_a_gpu(
    entry: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not entry.get("gpu"):
        pytest.skip("it books no GPU")
    import torch

    class AskedError(Exception):
        """Raised in place of the setting: nothing here can compute on a GPU."""

    def asked() -> None:
        raise AskedError

    kind = entry["kinds"][0]
    model, query = copy.deepcopy(fitted(entry)), ask(entry, "seen")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "deterministic", asked)
    with pytest.raises(AskedError):
        build(entry["settings"], 0).fit(Training(screen(kind).train.copy(), pairs_for(entry, kind)), Run())
    with pytest.raises(AskedError):
        model.predict(Query(query))


def test_learns_the_effect(entry: dict) -> None:
    query = ask(entry, "seen")
    inputs = np.stack([dense(query.X)[rows].mean(axis=0) for rows in input_controls(query)])
    truth = screen(entry["kinds"][0]).delta(query)
    predicted = profiles(fitted(entry).predict(Query(query)), query) - inputs
    explained = 1 - ((truth - predicted) ** 2).sum() / (truth**2).sum()
    if entry["class"] == FLOOR:
        assert abs(explained) < 1e-4
    else:
        assert explained > 0.1, f"it explains {explained:.2f} of the effect, no better than no change"
