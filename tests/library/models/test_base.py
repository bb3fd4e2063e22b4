import numpy as np
import pandas as pd
import pytest
from model_cases import cells, question, random_screen

from trueshift.contract import CONDITION, ContractError
from trueshift.models.base import Query, Training, build, centroids, query_controls, refuse_unseen
from trueshift.models.mean_shift import MeanShift

MEAN_SHIFT = "trueshift.models.mean_shift.MeanShift"


def test_build_gives_parameters_and_seed():
    model = build({"class": "trueshift.models.train_mean.TrainMean", "params": {"scope": "context"}}, 5)
    assert (model.scope, model.seed) == ("context", 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class": "trueshift.models.linear.Linear", "params": {"rnak": 3}}, "no parameter rnak; did you mean rank?"),
        ({"class": MEAN_SHIFT, "params": {"rank": 3}}, r"no parameter rank \(it has: none\)"),
        ({"class": MEAN_SHIFT, "params": {"seed": 3}}, "no parameter seed"),
        ({"class": "trueshift.models.mean_shift.Meanshift", "params": {}}, "Meanshift does not exist"),
        ({"class": "trueshift.models.nothing.Nothing", "params": {}}, "Nothing does not exist"),
        ({"class": "MeanShift", "params": {}}, "no dotted path such as trueshift.models.MeanShift"),
    ],
)
def test_build_refuses_by_name(settings, message):
    with pytest.raises(ContractError, match=message):
        build(settings, 0)


def test_build_does_not_hide_a_missing_package_of_a_model(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="package_that_is_not_there"):
        build({"class": "needs_more.Model", "params": {}}, 0)


def test_a_model_that_could_not_be_kept_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    code = "from trueshift.models.base import Model\nclass Half(Model):\n    fit = predict = load = lambda self: None\n"
    (tmp_path / "half.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ContractError, match=r"half\.Half has no save; a model needs fit, predict, save and load"):
        build({"class": "half.Half", "params": {}}, 0)


def test_unfitted_models_say_so():
    with pytest.raises(ContractError, match="MeanShift has learnt nothing yet: call fit or load"):
        MeanShift().predict(Query(question([("a", "A", "1")], a=[1.0])))


def test_centroids_agree_with_pandas():
    train = random_screen(["A", "B", "A+B"], contexts=3)
    seen = centroids(train)
    frame = train.to_df().astype(float)
    obs = train.obs.astype(dict.fromkeys(CONDITION, str))
    by_condition = frame.groupby([obs[name] for name in CONDITION]).mean()
    for row, condition in enumerate(seen.conditions.itertuples(index=False, name=None)):
        np.testing.assert_allclose(seen.means[row], by_condition.loc[condition], rtol=1e-6)
        np.testing.assert_allclose(
            seen.deltas[row], by_condition.loc[condition] - by_condition.loc[(condition[0], "control", "0")], atol=1e-6
        )
    assert len(seen.conditions) == 9
    assert sorted(seen.control) == ["x0", "x1", "x2"]


def test_validation_cells_count_as_training_cells():
    train = cells([("a", "control", "0", [1.0]), ("a", "A", "1", [2.0]), ("a", "A", "1", [6.0])])
    train.obs["role"] = ["control_input", "train", "val"]
    assert centroids(train).deltas.item() == 3


def test_centroids_need_controls_and_perturbed_cells():
    with pytest.raises(ContractError, match="context b has perturbed cells but no control"):
        centroids(cells([("a", "control", "0", [1.0]), ("b", "A", "1", [2.0])]))
    with pytest.raises(ContractError, match="no perturbed cells"):
        centroids(cells([("a", "control", "0", [1.0])]))


def test_query_controls_follow_the_conditions():
    query = question([("b", "A", "1"), ("a", "A", "1"), ("b", "B", "1")], a=[1.0, 2.0], b=[3.0, 5.0])
    np.testing.assert_array_equal(query_controls(query), [[3, 5], [1, 2], [3, 5]])
    with pytest.raises(ContractError, match="no input control cells in context c"):
        query_controls(question([("c", "A", "1")], a=[1.0]))


def test_refuse_unseen_names_the_condition():
    query = question([("a", "A", "1"), ("a", "B", "2")], a=[1.0])
    refuse_unseen(query, {("A",), ("B",)}, ["perturbation"], "m")
    with pytest.raises(ContractError, match="m was never shown perturbation B, dose 2 in training"):
        refuse_unseen(query, {("A", "1"), ("B", "1")}, ["perturbation", "dose"], "m")


def test_weights_are_npz_without_pickle(tmp_path):
    model = MeanShift().fit(Training(random_screen(["A"])))
    model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]
    np.testing.assert_array_equal(MeanShift().load(tmp_path).state["shift"], model.state["shift"])
    np.savez(tmp_path / "weights.npz", shift=np.array([pd.NA], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        MeanShift().load(tmp_path)
