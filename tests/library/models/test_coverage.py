"""Models that need features, on data where some perturbations have none: they learn from, and answer, the others."""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from trueshift.contract import (
    CONDITION,
    ContractError,
    Pairs,
    asked,
    check_prediction,
    read_h5ad,
    unanswered,
    write_h5ad,
)
from trueshift.models.base import CannotLearnError, Query, Training, build
from trueshift.models.coverage import (
    NothingLearnt,
    covered,
    fit_covered,
    load_trained,
    predict_covered,
    train_on_covered,
)

KNN = {"class": "trueshift.models.knn_features.KnnFeatures", "params": {"features": "f", "k": 1}, "needs": ["features"]}
STRUCTURES = {"class": "m.M", "params": {}, "needs": ["structures"]}
LABELS = ["control", "A", "B", "A+B", "C", "A+C", "D@KO"]


def table(*names: str) -> pd.DataFrame:
    values = np.random.default_rng(1).normal(size=(len(names), 3)).astype(np.float32)
    return pd.DataFrame(values, index=pd.Index(names), columns=["f0", "f1", "f2"])


def screen(labels: list[str] = LABELS, cells: int = 4, **uns: Any) -> ad.AnnData:
    """Cells of every label in one context, every fourth for validation; features ``f`` of A, B and D@KO."""
    obs = pd.DataFrame({"perturbation": np.repeat(labels, cells)}).astype("category")
    obs.index = obs.index.map("c{}".format)
    obs["is_control"] = (obs["perturbation"] == "control").to_numpy()
    obs["context"], obs["batch"], obs["modality"] = "x", "b", "drug"
    obs["dose"] = [
        "0" if label == "control" else "+".join("1" * len(label.split("+"))) for label in obs["perturbation"]
    ]
    obs["role"] = np.where(obs["is_control"], "control_input", np.where(np.arange(len(obs)) % 4, "train", "val"))
    values = np.random.default_rng(0).normal(5, 1, (len(obs), 6)).astype(np.float32)
    values += 3 * pd.factorize(obs["perturbation"])[0][:, None]
    known = {"perturbation_features": {"f": table("A", "B", "D@KO")}, **uns}
    genes = pd.DataFrame(index=["A", "C", "D", "g3", "g4", "g5"])
    return ad.AnnData(sparse.csr_matrix(values), obs, genes, uns={"trueshift": {"kind": "lognorm"}, **known})


def query(train: ad.AnnData, *labels: str) -> ad.AnnData:
    """The controls of ``train`` and a question for every label; conditions in the order given."""
    part = train[train.obs["is_control"].to_numpy()].copy()
    rows = [("x", label, "+".join("1" * len(label.split("+"))), "drug", 3, 0) for label in labels]
    columns = ["context", "perturbation", "dose", "modality", "n_cells", "n_seen"]
    part.uns["conditions"] = pd.DataFrame(rows, columns=columns, index=[str(i) for i in range(len(rows))])
    return part


def pairs(train: ad.AnnData) -> Pairs:
    """Sets of two cells of every perturbation, with two controls each; the rows of the cells are those of ``train``."""
    labels = [label for label in LABELS if label != "control"]
    rows = {label: np.flatnonzero(train.obs["perturbation"] == label) for label in LABELS}
    perturbed = np.array([rows[label][[3, 1]] for label in labels], dtype=np.int32)
    control = np.array([rows["control"][[i % 4, 2]] for i in range(len(labels))], dtype=np.int32)
    text = np.array(["x"] * len(labels))
    return Pairs(perturbed, control, text, np.array(labels), text, np.array(["train"] * len(labels)), text)


def test_a_perturbation_is_covered_if_all_its_components_are() -> None:
    data = screen()
    assert covered(LABELS, data, KNN).tolist() == [True, True, True, True, False, False, True]
    assert covered(LABELS, data, {"class": "m.M", "params": {}}).all(), "a model that needs nothing"
    assert covered(LABELS, data, {**KNN, "params": {}}).tolist() == covered(LABELS, data, KNN).tolist(), (
        "the only table"
    )


def test_structures_and_features_are_both_needed() -> None:
    known = pd.DataFrame({"smiles": ["C", "N"], "scaffold": ["", ""]}, index=["A", "C"])
    data = screen(structures=known)
    assert covered(LABELS, data, STRUCTURES).tolist() == [True, True, False, False, True, True, False]
    both = {**KNN, "needs": ["features", "pairs", "structures"]}
    assert covered(LABELS, data, both).tolist() == [True, True, False, False, False, False, False]
    with pytest.raises(ContractError, match=r"m\.M needs structures, the dataset has none; .*columns: smiles"):
        covered(LABELS, screen(), STRUCTURES)


def test_target_expression_covers_what_is_measured() -> None:
    settings = {**KNN, "params": {"features": "target_expression"}}
    assert covered(LABELS, screen(), settings).tolist() == [True, True, False, False, True, True, True]


def test_training_leaves_out_what_is_not_covered(capsys: pytest.CaptureFixture[str]) -> None:
    whole = screen()
    left = train_on_covered(Training(whole), KNN)
    kept = left.cells
    assert left.pairs is None
    assert kept.obs_names.tolist() == [
        name for name in whole.obs_names if "C" not in whole.obs.at[name, "perturbation"]
    ]
    assert kept.obs["is_control"].sum() == 4
    assert set(kept.obs["perturbation"].cat.categories) == {"control", "A", "B", "A+B", "D@KO"}
    np.testing.assert_array_equal(kept.X.toarray(), whole[kept.obs_names].X.toarray())
    said = capsys.readouterr().out
    assert said == "left out of training, without features f: 2 of 7 perturbations, 8 of 28 rows; such as A+C, C\n"


def test_sets_keep_their_cells_and_controls() -> None:
    whole = screen()
    shuffled = whole[np.random.default_rng(2).permutation(whole.n_obs)].copy()  # rows left out lie between others
    before = pairs(shuffled)
    left = train_on_covered(Training(shuffled, before), KNN)
    kept, after = left.cells, left.pairs
    assert after is not None and after.perturbation.tolist() == ["A", "B", "A+B", "D@KO"]
    assert after.perturbed.dtype == after.control.dtype == np.int32
    old = [LABELS[1:].index(label) for label in after.perturbation]
    for name in ("perturbed", "control"):
        cells = kept.obs_names.to_numpy()[getattr(after, name)]
        np.testing.assert_array_equal(cells, shuffled.obs_names.to_numpy()[getattr(before, name)[old]])
    assert {len(value) for value in vars(after).values()} == {4}


def test_where_all_are_covered_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    data = screen(["control", "A", "B"])
    given = Training(data, pairs(screen()))
    assert train_on_covered(given, KNN) is given
    assert capsys.readouterr().out == ""


def test_training_needs_a_covered_perturbation() -> None:
    with pytest.raises(CannotLearnError, match=r"none of the perturbations in training has the features f that .*Knn"):
        train_on_covered(Training(screen(["control", "C"])), KNN)
    data = screen(["control", "A", "C"])
    data.obs.loc[data.obs["perturbation"] == "A", "role"] = "val"
    with pytest.raises(CannotLearnError, match=r"such as C\); give it others"):
        train_on_covered(Training(data), KNN)


def test_the_answer_is_that_of_data_without_what_is_not_covered(tmp_path: Path) -> None:
    whole = screen()
    smaller = whole[~whole.obs["perturbation"].isin(["C", "A+C"])].copy()
    question = query(whole, "A", "A+C", "B", "C", "D@KO")
    train = train_on_covered(Training(whole), KNN).cells
    answer = predict_covered(build(KNN, 0).fit(Training(train)), Query(question), KNN)
    expected = build(KNN, 0).fit(Training(smaller)).predict(Query(query(whole, "A", "B", "D@KO")))
    np.testing.assert_array_equal(answer.X, expected.X)
    assert answer.obs["perturbation"].tolist() == ["A", "B", "D@KO"]
    write_h5ad(answer, tmp_path / "prediction.h5ad")
    back = read_h5ad(tmp_path / "prediction.h5ad")
    check_prediction(back, question, "prediction.h5ad")
    left = unanswered(back)
    assert list(left) == [*CONDITION, "reason"]
    assert left.to_numpy().tolist() == [["x", "A+C", "1+1", "no features"], ["x", "C", "1", "no features"]]
    assert asked(question)["perturbation"].tolist() == ["A", "A+C", "B", "C", "D@KO"], "the question stays as it was"


def test_what_a_model_leaves_out_itself_stays_declared() -> None:
    class Silent:
        def predict(self, part: Query) -> ad.AnnData:
            answer = build(KNN, 0).fit(Training(screen(["control", "A", "B"]))).predict(part)[:1].copy()
            rows = [["x", "B", "1", "too far"]]
            answer.uns["unanswered"] = pd.DataFrame(rows, columns=[*CONDITION, "reason"], index=["0"])
            return answer

    answer = predict_covered(Silent(), Query(question := query(screen(), "A", "B", "C")), KNN)  # type: ignore[arg-type]
    check_prediction(answer, question, "p")
    assert unanswered(answer)["reason"].tolist() == ["too far", "no features"]


def test_a_question_of_which_nothing_is_covered_is_left_unanswered_whole(tmp_path: Path) -> None:
    question = query(screen(), "C", "A+C")
    answer = predict_covered(build(KNN, 0), Query(question), KNN)  # would raise if it were asked: it has learnt nothing
    write_h5ad(answer, tmp_path / "prediction.h5ad")
    back = read_h5ad(tmp_path / "prediction.h5ad")
    check_prediction(back, question, "prediction.h5ad")
    assert back.shape == (0, 6) and unanswered(back)["perturbation"].tolist() == ["C", "A+C"]


def test_where_all_is_covered_nothing_is_declared() -> None:
    model = build(KNN, 0).fit(Training(screen(["control", "A", "B"])))
    assert "unanswered" not in predict_covered(model, Query(query(screen(), "A", "D@KO")), KNN).uns


MEAN = {"class": "trueshift.models.perturbation_mean.PerturbationMean", "params": {}, "needs": []}


def test_a_perturbation_that_only_the_test_has_is_left_unanswered() -> None:
    train = screen()
    model = build(MEAN, 0).fit(Training(train))
    asking = query(train, "A", "Z", "B", "Y")
    answer = predict_covered(model, Query(asking), MEAN)
    check_prediction(answer, asking, "prediction")
    assert answer.obs["perturbation"].tolist() == ["A", "B"]
    left = unanswered(answer)
    assert left[["perturbation", "reason"]].to_numpy().tolist() == [["Z", "not in training"], ["Y", "not in training"]]
    alone = predict_covered(model, Query(query(train, "A", "B")), MEAN)
    assert np.array_equal(answer.X, alone.X) and not len(unanswered(alone))


def all_unanswered(answer: ad.AnnData, question: ad.AnnData, file: Path) -> list[str]:
    """The reasons of a prediction without rows, in the order asked, as they are read from its file."""
    write_h5ad(answer, file)
    back = read_h5ad(file)
    check_prediction(back, question, file)
    assert back.shape == (0, question.n_vars)
    reasons = unanswered(back).set_index("perturbation")["reason"]
    return [reasons[label] for label in asked(question)["perturbation"]]


@pytest.mark.parametrize("name", ["perturbation_mean.PerturbationMean", "additive.Additive"])
def test_a_model_that_can_answer_nothing_leaves_all_unanswered(name: str, tmp_path: Path) -> None:
    settings = {"class": f"trueshift.models.{name}", "params": {}}
    train = screen()
    question = query(train, "Z", "Y")
    answer = predict_covered(build(settings, 0).fit(Training(train)), Query(question), settings)
    assert all_unanswered(answer, question, tmp_path / "p.h5ad") == ["not in training"] * 2


RIDGE = {**KNN, "class": "trueshift.models.ridge_features.RidgeFeatures", "params": {"features": "f"}}
LINEAR = {**RIDGE, "class": "trueshift.models.linear.Linear"}


@pytest.mark.parametrize(
    ("settings", "labels", "reason"),
    [
        (KNN, ["control", "C"], "no features"),
        (LINEAR, ["control", "C"], "no features"),
        (RIDGE, ["control", "A", "C"], "features do not differ"),
    ],
)
def test_a_fold_that_teaches_nothing_gives_a_prediction_without_rows(
    settings: dict[str, Any], labels: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = screen(labels)
    trained = fit_covered(build(settings, 0), Training(train), settings)
    assert isinstance(trained, NothingLearnt)
    assert f"nothing learnt, all conditions will be left unanswered: {trained.message}" in capsys.readouterr().out
    trained.save(tmp_path)
    assert json.loads((tmp_path / "nothing_learnt.json").read_text())["reason"] == reason
    question = query(train, "A", "C", "B")
    answer = predict_covered(load_trained(tmp_path, settings, 0), Query(question), settings)
    assert all_unanswered(answer, question, tmp_path / "p.h5ad") == [reason, "no features", reason]


def test_a_model_that_learns_is_kept_as_itself(tmp_path: Path) -> None:
    trained = fit_covered(build(KNN, 0), Training(screen()), KNN)
    assert type(trained) is type(build(KNN, 0))
    trained.save(tmp_path)
    answers = [
        predict_covered(m, Query(query(screen(), "A")), KNN).X for m in (trained, load_trained(tmp_path, KNN, 0))
    ]
    assert np.array_equal(*answers)


def test_a_mistake_in_the_configuration_still_stops() -> None:
    for params, message in (({"features": "f", "k": 0}, "k 0 must be"), ({"features": "g"}, "features g")):
        settings = {**KNN, "params": params}
        with pytest.raises(ContractError, match=message) as error:
            fit_covered(build(settings, 0), Training(screen()), settings)
        assert not isinstance(error.value, CannotLearnError)


def test_what_lacks_features_and_what_was_not_shown_have_their_own_reasons() -> None:
    class Named(type(build(MEAN, 0))):
        """Knows perturbations by name, and is said to need features as well."""

    train = screen(["control", "A", "B"])
    settings = {**KNN, "class": "Named"}
    answer = predict_covered(Named().fit(Training(train)), Query(query(train, "D@KO", "A", "C")), settings)
    assert answer.obs["perturbation"].tolist() == ["A"]
    assert dict(unanswered(answer)[["perturbation", "reason"]].to_numpy()) == {
        "D@KO": "not in training",
        "C": "no features",
    }
