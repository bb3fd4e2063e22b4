import functools
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("scvi")

import biolord
import torch
from planted import HIDDEN, make_query, make_train, share_of_error

from trueshift.contract import ContractError, check_prediction
from trueshift.models.base import CannotLearnError, Query, Training
from trueshift.models.biolord import CODES, Biolord
from trueshift.models.scvi_training import roles, seeded
from trueshift.tracking import Run

SMALL = {
    "n_latent": 8,
    "n_attribute": 8,
    "noise": 2.0,
    "decoder_width": 64,
    "decoder_depth": 1,
    "batch_norm": True,
    "epochs": 40,
    "batch_size": 128,
    "latent_lr": 0.02,
    "decoder_lr": 0.01,
}


@functools.cache
def fitted(batch_attribute: bool = False) -> Biolord:
    return Biolord(seed=1, batch_attribute=batch_attribute, **SMALL).fit(Training(make_train()))


@functools.cache
def trained_upstream() -> biolord.Biolord:
    with seeded(1):
        return Biolord(seed=1, **SMALL).train_upstream(make_train(), None)


def all_controls(perturbation: str, context: str = "hidden") -> ad.AnnData:
    """A query that takes every control of a context once."""
    train = make_train()
    n = int((train.obs["is_control"] & (train.obs["context"] == context)).sum())
    return make_query(train, [(context, perturbation)], n_cells=n)


def test_equals_the_package_given_the_cells_of_the_training() -> None:
    upstream = trained_upstream()
    query = all_controls("P1")
    source = upstream.get_dataset(upstream.adata[query.obs_names])
    expected = upstream._compute_prediction(upstream.adata, source, ["perturbation"])[0][("P1",)].numpy()
    ours = fitted().predict(Query(query)).X
    np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(expected, axis=0), atol=1e-5)


def test_a_newly_registered_query_would_fetch_the_codes_of_other_cells() -> None:
    upstream, query = trained_upstream(), all_controls("P1")
    bare = make_train()[query.obs_names].copy()
    for column in ("perturbation", "context"):
        bare.obs[column] = pd.Categorical(bare.obs[column], categories=sorted(make_train().obs[column].unique()))
    type(upstream).setup_anndata(bare, categorical_attributes_keys=["perturbation", "context"])
    fetched = bare.obs["_indices"].to_numpy()
    own = make_train().obs_names.get_indexer(query.obs_names)
    assert fetched.tolist() == list(range(len(own))) != own.tolist()


def test_codes_of_other_cells_do_not_matter() -> None:
    upstream, query, train = trained_upstream(), all_controls("P2"), make_train()
    weights = {name: value.clone() for name, value in upstream.module.state_dict().items()}
    others = torch.from_numpy(~train.obs_names.isin(query.obs_names))
    spoilt = {**weights, CODES: weights[CODES].clone()}
    spoilt[CODES][others] = 3.0
    answers = []
    for chosen in (weights, spoilt):
        model = Biolord(seed=1, **SMALL)
        model.facts, model.cells, model.centre = fitted().facts, train.obs_names.to_numpy(str), fitted().centre
        model.module = model._make_module(chosen)
        answers.append(model.predict(Query(query)).X)
    assert np.array_equal(*answers)
    np.testing.assert_allclose(answers[0], fitted().predict(Query(query)).X, atol=1e-6)
    spoilt[CODES][~others] = 3.0
    model.module = model._make_module(spoilt)
    assert not np.allclose(model.predict(Query(query)).X, answers[0], atol=1e-2), "codes do not matter at all"


def test_keeps_the_codes_of_controls_only() -> None:
    assert fitted().module.state_dict()[CODES].shape == (int(make_train().obs["is_control"].sum()), SMALL["n_latent"])


def test_order_of_the_query_does_not_matter() -> None:
    query = all_controls("P0")
    shuffled = query[np.random.default_rng(0).permutation(query.n_obs)].copy()
    shuffled.uns = query.uns
    one, other = (np.sort(fitted().predict(Query(q)).X, axis=0) for q in (query, shuffled))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_beats_no_change_in_contexts_seen_and_held_out() -> None:
    train = make_train()
    seen = make_query(train, [("A", "P0"), ("B", "P2")])
    held_out = make_query(train, HIDDEN)
    assert share_of_error(fitted().predict(Query(seen)), seen) < 0.3
    assert share_of_error(fitted().predict(Query(held_out)), held_out) < 0.6


def test_batches_are_those_of_the_control_cells() -> None:
    model, query = fitted(True), all_controls("P0", "A")
    plain = model.predict(Query(query)).X
    model = Biolord(seed=1, batch_attribute=True, **SMALL)
    vars(model).update(vars(fitted(True)))
    model.batches = np.where(model.batches == "b0", "b1", "b0")
    assert not np.allclose(np.sort(model.predict(Query(query)).X, axis=0), np.sort(plain, axis=0), atol=1e-4)


def test_takes_as_many_cells_as_asked_even_one() -> None:
    query = make_query(make_train(), [("hidden", "P1"), ("A", "P0")])
    for asked in ([500, 13], [1, 1], [512, 1]):
        query.uns["conditions"]["n_cells"] = asked
        prediction = fitted().predict(Query(query))
        check_prediction(prediction, query, "prediction")
        assert (prediction.obs["perturbation"] == "P1").sum() == asked[0]
        assert prediction.n_obs == sum(asked)
    single = make_query(make_train(), [("A", "P0")], n_cells=1)
    assert fitted().predict(Query(single)).n_obs == 1


def test_refuses_what_it_was_never_shown() -> None:
    train = make_train()
    with pytest.raises(ContractError, match="perturbation P9"):
        fitted().predict(Query(make_query(train, [("A", "P9")])))
    with pytest.raises(ContractError, match="perturbation control"):
        fitted().predict(Query(make_query(train, [("A", "control")])))
    query = make_query(train, [("A", "P0")])
    query.obs_names = [f"new{i}" for i in range(query.n_obs)]
    with pytest.raises(ContractError, match="new"):
        fitted().predict(Query(query))
    with pytest.raises(ContractError, match="fit or load"):
        Biolord().predict(Query(query))


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    query = make_query(make_train(), HIDDEN)
    fitted(True).save(tmp_path)
    loaded = Biolord(seed=1, batch_attribute=True, **SMALL).load(tmp_path)
    assert np.array_equal(loaded.predict(Query(query)).X, fitted(True).predict(Query(query)).X)
    with pytest.raises(ContractError, match="weights of another size"):
        Biolord(**{**SMALL, "n_latent": 4}, batch_attribute=True).load(tmp_path)


def test_validation_cells_are_scored_and_not_trained_on(capsys: pytest.CaptureFixture) -> None:
    Biolord(**{**SMALL, "epochs": 4, "validate_every": 2}).fit(Training(make_train()), run=Run())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 4
    assert "val_metric" not in lines[0]
    assert "val_metric" in lines[1]
    upstream, obs = trained_upstream(), make_train().obs
    assert set(upstream.train_indices) == set(np.flatnonzero(obs["role"] != "val"))
    assert set(upstream.valid_indices) == set(np.flatnonzero(obs["role"] == "val"))


def test_without_validation_cells_all_epochs_are_run(capsys: pytest.CaptureFixture) -> None:
    settings = {**SMALL, "epochs": 5, "validate_every": 2, "patience": 1}
    Biolord(**settings).fit(Training(make_train(cells=10, validation=False)), run=Run())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 5
    assert "val" not in "".join(lines)


def test_no_batch_holds_a_single_cell() -> None:
    train = make_train(cells=3, validation=False)[:65].copy()
    for asked in (2, 8, 32, 64):
        rows, validation, size = roles(train, asked) if asked > 2 else roles(train[:64].copy(), asked)
        assert size <= asked
        assert len(rows) % size != 1
        assert not len(validation)
    with pytest.raises(ContractError, match="batch_size"):
        roles(train, 2)
    with pytest.raises(ContractError, match="batch_size is 1"):
        roles(train, 1)
    with pytest.raises(CannotLearnError, match="1 cells to train on"):
        roles(train[:1].copy(), 32)
    Biolord(**{**SMALL, "epochs": 1, "batch_size": 64}).fit(Training(train))


# --- perturbations by their features -------------------------------------------------------------------

DRUGS = [f"D{i}" for i in range(14)]
FEATURES = {
    **SMALL,
    "perturbation_encoder": "features",
    "n_perturbation": 8,
    "attribute_width": 32,
    "noise": 1.0,
    "epochs": 60,
    "batch_size": 64,
}


def drug_features() -> pd.DataFrame:
    """Three features that vary, one that never does, and one that differs for the last drugs only."""
    values = np.random.default_rng(1).uniform(-1, 1, (len(DRUGS), 3)) * [1, 10, 0.1] + [5, 0, 0]
    table = pd.DataFrame(values, index=DRUGS, columns=["f0", "f1", "f2"])
    table["constant"], table["last"] = 3.0, [0.0] * 12 + [1.0, 2.0]
    return table


def drug_effects() -> np.ndarray:
    """Linear in the features that vary, with a part that all drugs share, shape (drug, gene)."""
    rng = np.random.default_rng(2)
    scaled = drug_features()[["f0", "f1", "f2"]].to_numpy() / [1, 10, 0.1] - [5, 0, 0]
    return 0.5 * rng.normal(size=20) + scaled @ rng.normal(size=(3, 20))


@functools.cache
def drug_screen() -> ad.AnnData:
    """Cells of two contexts, of all but the last two drugs; even drugs at dose 1, odd ones at dose 10."""
    rng = np.random.default_rng(3)
    blocks, rows = [], []
    for c, context in enumerate(("A", "B")):
        for d, drug in enumerate([*DRUGS[:12], "control"]):
            control = drug == "control"
            n = 40 if control else 16
            blocks.append(5 + c + (0 if control else drug_effects()[d]) + 0.2 * rng.normal(size=(n, 20)))
            rows += [(context, drug, "0" if control else "10" if d % 2 else "1")] * n
    obs = pd.DataFrame(rows, columns=["context", "perturbation", "dose"])
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    obs["batch"], obs["is_control"] = "b", obs["perturbation"] == "control"
    obs["role"] = np.where(obs["is_control"], "control_input", "train")
    genes = pd.DataFrame(index=pd.Index([f"G{i}" for i in range(20)]))
    return ad.AnnData(
        np.concatenate(blocks).astype(np.float32),
        obs=obs,
        var=genes,
        uns={"trueshift": {"kind": "lognorm"}, "perturbation_features": {"descriptors": drug_features()}},
    )


def drug_query(conditions: list[tuple[str, str, str]]) -> ad.AnnData:
    """Every control of the context, for each (context, perturbation, dose) asked."""
    query = make_query(drug_screen(), [row[:2] for row in conditions], n_cells=40)
    query.uns["conditions"]["dose"] = [row[2] for row in conditions]
    return query


@functools.cache
def fitted_on_features() -> Biolord:
    return Biolord(seed=1, **FEATURES).fit(Training(drug_screen()))


def answers(conditions: list[tuple[str, str, str]], model: Biolord | None = None) -> np.ndarray:
    """Answers to conditions, each in the order of its values, shape (condition, cell, gene)."""
    values = (model or fitted_on_features()).predict(Query(drug_query(conditions))).X.reshape(len(conditions), 40, -1)
    return np.sort(values, axis=1)


def test_features_equal_the_package_given_the_drug_of_other_cells() -> None:
    with seeded(1):
        upstream = fitted_on_features().train_upstream(drug_screen(), None)
    obs = drug_screen().obs
    treated = np.flatnonzero((obs["perturbation"] == "D3") & (obs["context"] == "B"))
    controls = upstream.adata[(obs["is_control"] & (obs["context"] == "B")).to_numpy()].copy()
    assert not controls.obsm["perturbation"].any(), "controls have other than zeros"
    controls.obsm["perturbation"] = np.repeat(upstream.adata.obsm["perturbation"][treated[:1]], 40, axis=0)
    expected = upstream.predict(controls)[0].X
    np.testing.assert_allclose(answers([("B", "D3", "10")])[0], np.sort(expected, axis=0), atol=1e-5)


def test_an_unseen_drug_is_its_features() -> None:
    table = drug_features()
    table.loc["twin"] = table.loc["D2"]
    table.loc["sum"] = table.loc[["D2", "D5"]].sum() - table.iloc[:12].mean()  # standardised sums have no mean
    train = drug_screen().copy()
    train.uns["perturbation_features"] = {"descriptors": table}
    model = Biolord(seed=1, **{**FEATURES, "epochs": 3}).fit(Training(train))
    asked = [("A", "D2", "1"), ("A", "twin", "1"), ("A", "D2+D5", "5+5"), ("A", "sum", "10"), ("A", "D2", "10")]
    drug, twin, both, total, high = answers(asked, model)
    assert np.array_equal(drug, twin)
    np.testing.assert_allclose(both, total, atol=1e-5)
    assert not np.allclose(drug, both, atol=1e-3)
    assert not np.allclose(drug, high, atol=1e-3), "doses are not told apart"


def test_features_are_standardised_by_the_drugs_of_the_training() -> None:
    model, table = fitted_on_features(), drug_features()[["f0", "f1", "f2"]]
    seen = table.iloc[:12]
    expected = (table - seen.mean()) / seen.std(ddof=0)
    np.testing.assert_allclose(model.known.values, expected, atol=1e-12)
    rows = pd.DataFrame({"perturbation": ["control", "D1"], "dose": ["0", "1"]})
    np.testing.assert_allclose(model._inputs(rows)[:, -1], [0, np.log(2) / np.log(11)], rtol=1e-6)


def test_beats_no_change_for_unseen_drugs_with_effects_linear_in_features() -> None:
    asked = [(context, drug, "1") for context in ("A", "B") for drug in DRUGS[12:]]
    predicted = answers(asked).mean(axis=1)
    controls = [drug_screen()[(drug_screen().obs["is_control"]) & (drug_screen().obs["context"] == c)].X for c in "AB"]
    change = predicted - np.repeat([values.mean(axis=0) for values in controls], 2, axis=0)
    truth = np.tile(drug_effects()[12:], (2, 1))
    assert ((change - truth) ** 2).sum() < 0.5 * (truth**2).sum()


def test_features_are_saved_and_loaded(tmp_path: Path) -> None:
    fitted_on_features().save(tmp_path)
    loaded = Biolord(seed=1, **FEATURES).load(tmp_path)
    asked = [("A", "D13", "1"), ("B", "D0", "3")]
    assert np.array_equal(answers(asked, loaded), answers(asked))


def test_errors_of_features_name_what_is_wrong() -> None:
    bare = drug_screen().copy()
    del bare.uns["perturbation_features"]
    with pytest.raises(ContractError, match="one table of perturbation features"):
        Biolord(**FEATURES).fit(Training(bare))
    bare.uns["perturbation_features"] = {"descriptors": drug_features()[["constant"]]}
    with pytest.raises(CannotLearnError, match="do not differ in features descriptors"):
        Biolord(**FEATURES).fit(Training(bare))
    with pytest.raises(ContractError, match="D99 has no row"):
        fitted_on_features().predict(Query(drug_query([("A", "D99", "1")])))
    query = drug_query([("A", "D0", "1")])
    query.uns["conditions"]["context"] = query.obs["context"] = "C"
    with pytest.raises(ContractError, match="context C"):
        fitted_on_features().predict(Query(query))
    with pytest.raises(ContractError, match="one of one_hot, features, not drug"):
        Biolord(**{**SMALL, "perturbation_encoder": "drug"}).fit(Training(make_train()))
    with pytest.raises(ContractError, match="perturbation_encoder: features"):
        Biolord(**SMALL, features="descriptors").fit(Training(make_train()))
