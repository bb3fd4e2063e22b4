"""Every closed-form model against numbers worked out by hand, or against an independent implementation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_cases import cells, question, random_screen
from scipy.spatial.distance import jaccard
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.neighbors import KNeighborsRegressor

from trueshift.contract import ContractError
from trueshift.models.additive import Additive
from trueshift.models.base import CannotLearnError, Query, Training, UnseenError, centroids
from trueshift.models.condition_mean import ConditionMean
from trueshift.models.features import Features, gene_embedding
from trueshift.models.knn_features import KnnFeatures, distances
from trueshift.models.linear import Linear, solve_bilinear
from trueshift.models.mean_shift import MeanShift
from trueshift.models.no_change import NoChange
from trueshift.models.perturbation_mean import PerturbationMean
from trueshift.models.ridge_control import RidgeControl
from trueshift.models.ridge_features import ALPHAS, RidgeFeatures, ridge_path
from trueshift.models.train_mean import TrainMean


def perturbation_features(adata, perturbations, name=None, rank=10):
    return Features.read(adata, name, rank).of(perturbations)


# control means: a (2, 1), b (0, 4); δ: a/A (2, 1), a/B (0, −1), b/A (1, 0)
TWO_CONTEXTS = cells(
    [
        ("a", "control", "0", [1, 1]),
        ("a", "control", "0", [3, 1]),
        ("a", "A", "1", [4, 1]),
        ("a", "A", "1", [4, 3]),
        ("a", "B", "1", [2, 0]),
        ("b", "control", "0", [0, 4]),
        ("b", "A", "1", [1, 4]),
    ]
)
A_IN_BOTH = question([("a", "A", "1"), ("b", "A", "1")], a=[10, 10], b=[20, 20])


def answer(model, train, query):
    return model.fit(Training(train)).predict(Query(query)).X


def table(values, names):
    return pd.DataFrame(values, index=names, columns=[f"f{i}" for i in range(np.shape(values)[1])])


# --- means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (NoChange(), [[10, 10], [20, 20]]),
        (MeanShift(), [[11, 10], [21, 20]]),  # δ̄ = (3, 0)/3: conditions weigh alike, whatever their number of cells
        (TrainMean(), [[7 / 3, 2], [7 / 3, 2]]),
        (TrainMean(scope="context"), [[3, 1], [1, 4]]),
        (PerturbationMean(), [[11.5, 10.5], [21.5, 20.5]]),
        (ConditionMean(), [[4, 2], [1, 4]]),
        (Additive(), [[12, 11], [21, 20]]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_equations(model, expected):
    np.testing.assert_allclose(answer(model, TWO_CONTEXTS, A_IN_BOTH), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "condition", "message"),
    [
        (TrainMean(scope="context"), ("c", "A", "1"), "never shown context c"),
        (PerturbationMean(), ("a", "A+B", "1+1"), r"never shown perturbation A\+B"),
        (ConditionMean(), ("b", "B", "1"), "never shown context b, perturbation B, dose 1"),
        (ConditionMean(), ("a", "A", "2"), "never shown context a, perturbation A, dose 2"),
        (Additive(), ("a", "C", "1"), "never shown perturbation C"),
        (Additive(), ("a", "A+B", "1"), r"dose 1 of perturbation A\+B is not one number a component"),
    ],
)
def test_refusals(model, condition, message):
    with pytest.raises(ContractError, match=message):
        answer(model, TWO_CONTEXTS, question([condition], a=[0, 0], b=[0, 0], c=[0, 0]))


def test_train_mean_knows_its_scopes():
    with pytest.raises(ContractError, match="scope is one of"):
        TrainMean(scope="contexts").fit(Training(TWO_CONTEXTS))


def test_additive_says_which_singles_it_was_never_shown():
    query = question([("a", "C", "1"), ("a", "A", "1"), ("a", "A+C", "1+1")], a=[0, 0])
    with pytest.raises(UnseenError, match="additive was never shown perturbation C in training") as error:
        Additive().fit(Training(TWO_CONTEXTS)).predict(Query(query))
    assert error.value.unseen.tolist() == [True, False, False], "a combination counts what is missing as 0"


def test_additive_sums_singles_of_the_context_or_of_all_and_counts_missing_ones_zero():
    query = question(
        [("a", "A+B", "1+1"), ("b", "A+B", "1+1"), ("a", "A+C", "1+1"), ("a", "C+D", "1+1")], a=[0, 0], b=[0, 0]
    )
    expected = [
        [2 + 0, 1 - 1],
        [1 + 0, 0 - 1],  # B was not trained in b: its δ in a
        [2, 1],  # C is missing
        [0, 0],
    ]
    np.testing.assert_allclose(answer(Additive(), TWO_CONTEXTS, query), expected, atol=1e-6)


def test_additive_does_not_use_trained_combinations():
    rows = [("a", "control", "0", [0.0]), ("a", "A", "1", [1.0]), ("a", "B", "1", [2.0])]
    query = question([("a", "A+B", "1+1")], a=[0])
    for combination in (7.0, 70.0):
        assert answer(Additive(), cells([*rows, ("a", "A+B", "1+1", [combination])]), query).item() == 3


DOSES = cells(
    [
        ("a", "control", "0", [0.0]),
        ("b", "control", "0", [0.0]),
        ("a", "A", "1", [1.0]),
        ("b", "A", "1", [2.0]),
        ("b", "A", "10", [9.0]),
        ("a", "B", "1", [0.5]),
    ]
)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # dose 1: both contexts; dose 10: only b has it; dose 5: the mean of all three
        (PerturbationMean(), [1.5, 9, 4]),
        # the same dose goes before the same context
        (Additive(), [1, 9, 1]),
    ],
    ids=["perturbation_mean", "additive"],
)
def test_nearest_dose_then_context(model, expected):
    query = question([("a", "A", "1"), ("a", "A", "10"), ("a", "A", "5")], a=[0])
    np.testing.assert_allclose(answer(model, DOSES, query).ravel(), expected)


def test_additive_takes_each_component_at_its_own_dose():
    assert answer(Additive(), DOSES, question([("b", "A+B", "10+1")], b=[0])).item() == 9.5


# --- ridge on controls -----------------------------------------------------------------------------------


def test_ridge_control_agrees_with_scikit_learn_per_gene():
    train = random_screen(["A", "B", "C"], contexts=4)
    seen = centroids(train)
    control = seen.means - seen.deltas
    query = question([("new", "A", "1")], new=[0.5, 1, 2, 0, 3, 1])
    inputs = np.array([[0.5, 1, 2, 0, 3, 1]])
    expected = [
        Ridge(alpha=0.7).fit(control[:, [g]], seen.deltas[:, g]).predict(inputs[:, [g]])[0] + inputs[0, g]
        for g in range(6)
    ]
    np.testing.assert_allclose(answer(RidgeControl(alpha=0.7), train, query)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(("contexts", "alpha"), [(3, 1e12), (1, 0.01)])
def test_ridge_control_becomes_mean_shift(contexts, alpha):
    train = random_screen(["A", "B"], contexts=contexts)
    query = question([("new", "A", "1")], new=[1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(
        answer(RidgeControl(alpha=alpha), train, query), answer(MeanShift(), train, query), rtol=1e-5
    )


def test_ridge_control_needs_a_penalty():
    with pytest.raises(ContractError, match="alpha 0 must be above 0"):
        RidgeControl(alpha=0).fit(Training(TWO_CONTEXTS))


# --- features -----------------------------------------------------------------------------------------------


def test_features_of_combinations_are_sums_and_controls_have_none():
    train = random_screen(["A", "B"])
    train.uns["perturbation_features"]["f"] = table([[1, 2], [10, 20]], ["A", "B"])
    got = perturbation_features(train, ["B", "A+B", "control"], "f")
    np.testing.assert_array_equal(got, [[10, 20], [11, 22], [0, 0]])
    np.testing.assert_array_equal(got, perturbation_features(train, ["B", "A+B", "control"]))  # the only table


def test_features_respect_the_modality_of_a_component():
    train = random_screen(["A@CRISPRi"])
    train.uns["perturbation_features"]["f"] = table([[1], [2]], ["A@CRISPRa", "A@CRISPRi"])
    assert perturbation_features(train, ["A@CRISPRi"], "f").item() == 2
    with pytest.raises(ContractError, match="perturbation A has no row in perturbation features f; add it"):
        perturbation_features(train, ["A"], "f")


@pytest.mark.parametrize(
    ("tables", "name", "message"),
    [
        ({}, None, "needs one table of perturbation features, the dataset has none"),
        ({}, "f", "needs perturbation features f, the dataset has none"),
        ({"g": table([[1]], ["A"])}, "f", "needs perturbation features f, the dataset has g"),
        ({"g": table([[1]], ["A"]), "h": table([[1]], ["A"])}, None, "the dataset has g, h; name one"),
        ({"f": table([[1], [np.nan]], ["A", "B"])}, "f", "f0 of B is NaN"),
        ({"f": table([[1], [2]], ["A", "A"])}, "f", "A has two rows"),
    ],
)
def test_unusable_features_are_refused(tables, name, message):
    train = random_screen(["A"])
    train.uns["perturbation_features"] = tables
    with pytest.raises(ContractError, match=message):
        perturbation_features(train, ["A"], name)


def test_target_expression_is_the_embedding_of_the_target_gene():
    train = random_screen(["g1@CRISPRi", "g4"])
    embedding = gene_embedding(centroids(train), 3)
    got = perturbation_features(train, ["g1@CRISPRi", "g1@CRISPRi+g4"], "target_expression", rank=3)
    np.testing.assert_allclose(got, [embedding[1], embedding[1] + embedding[4]])
    with pytest.raises(ContractError, match="perturbation X@KO: its target gene X is not among the genes"):
        perturbation_features(train, ["X@KO"], "target_expression")


def test_gene_embedding_is_the_pca_of_genes_over_pseudobulks():
    train = random_screen(["A", "B", "C"], genes=12)
    seen = centroids(train)
    bulks = np.vstack([seen.means, *seen.control.values()])
    centred = bulks - bulks.mean(axis=1, keepdims=True)
    full = gene_embedding(centroids(train), 100)
    np.testing.assert_allclose(full @ full.T, centred.T @ centred, atol=1e-8)
    assert full.shape == (12, 8)  # 6 conditions and 2 controls span no more
    spread = (full**2).sum(axis=0)
    assert (np.diff(spread) <= 0).all()
    np.testing.assert_allclose(gene_embedding(centroids(train), 3), full[:, :3], atol=1e-9)


def test_gene_embedding_is_the_same_with_more_pseudobulks_than_genes():
    few = centroids(random_screen(["A", "B", "C"], genes=3))
    bulks = np.vstack([few.means, *few.control.values()])
    left, spread, _ = np.linalg.svd((bulks - bulks.mean(axis=1, keepdims=True)).T, full_matrices=False)
    got = gene_embedding(few, 10)
    assert got.shape == (3, 2)  # three genes, centred
    np.testing.assert_allclose(np.abs(got), np.abs(left * spread)[:, :2], atol=1e-7)
    assert (got[np.abs(got).argmax(axis=0), [0, 1]] > 0).all()


# --- linear --------------------------------------------------------------------------------------------------


def test_bilinear_solution_minimises_when_unpenalised_and_recovers_a_planted_matrix():
    rng = np.random.default_rng(0)
    G, W, P = rng.normal(size=(20, 3)), rng.normal(size=(3, 2)), rng.normal(size=(9, 2))
    np.testing.assert_allclose(solve_bilinear(G @ W @ P.T, G, P, 1e-10), W, rtol=1e-6)
    # penalised, against the formula written with inverses and with Kronecker products
    Y = rng.normal(size=(20, 9))
    left, right = np.linalg.inv(G.T @ G + 0.1 * np.eye(3)), np.linalg.inv(P.T @ P + 0.1 * np.eye(2))
    np.testing.assert_allclose(solve_bilinear(Y, G, P, 0.1), left @ G.T @ Y @ P @ right, rtol=1e-9)
    vector = np.kron(right @ P.T, left @ G.T) @ Y.ravel(order="F")
    np.testing.assert_allclose(solve_bilinear(Y, G, P, 0.1).ravel(order="F"), vector, rtol=1e-9)


def planted_screen():
    """Effects b + G·W·p exactly, with two features; G is centred over genes, as the embedding is."""
    rng = np.random.default_rng(3)
    G, W, b = rng.normal(size=(15, 2)), rng.normal(size=(2, 2)), rng.normal(size=15)
    G -= G.mean(axis=0)
    P = rng.normal(size=(10, 2))
    P -= P[:8].mean(axis=0)  # the effects of the training perturbations then average to b
    names = [f"p{i}" for i in range(10)]
    effect = b + P @ W.T @ G.T
    control = np.full(15, 5.0)
    rows = [("a", "control", "0", control)] + [("a", names[i], "1", control + effect[i]) for i in range(8)]
    return cells(rows, f=table(P, names)), effect, control


def test_linear_recovers_low_rank_effects_of_unseen_perturbations_and_sums():
    train, effect, control = planted_screen()
    query = question([("a", "p8", "1"), ("a", "p9", "1"), ("a", "p8+p9", "1+1")], a=control)
    got = answer(Linear(rank=4, ridge=1e-8, features="f"), train, query)
    b = effect[:8].mean(axis=0)
    expected = control + np.stack([effect[8], effect[9], effect[8] + effect[9] - b])
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_linear_is_the_published_formula():
    train = random_screen(["g0", "g1", "g2", "g3"], genes=8, contexts=1)
    seen = centroids(train)
    G = gene_embedding(centroids(train), 2)
    P = G[:4]
    b = seen.deltas.mean(axis=0)
    penalty = 0.1 * np.eye(2)
    K = np.linalg.inv(G.T @ G + penalty) @ G.T @ (seen.deltas - b).T @ P @ np.linalg.inv(P.T @ P + penalty)
    query = question([("x0", "g6", "1")], x0=[1] * 8)
    np.testing.assert_allclose(answer(Linear(rank=2), train, query)[0], 1 + b + G @ K @ G[6], rtol=1e-5)


def test_linear_with_a_heavy_penalty_is_mean_shift():
    train = random_screen(["g0", "g1"])
    query = question([("x0", "g3", "1")], x0=[1] * 6)
    np.testing.assert_allclose(answer(Linear(ridge=1e12), train, query), answer(MeanShift(), train, query), rtol=1e-5)


# --- ridge on features -----------------------------------------------------------------------------------------


def test_ridge_path_chooses_as_explicit_leave_one_perturbation_out():
    rng = np.random.default_rng(1)
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])
    X = rng.normal(size=(6, 4))[groups]
    Y = X @ rng.normal(size=(4, 7)) + 2 * rng.normal(size=(10, 7))
    penalties = np.array([0.01, 1.0, 10.0, 1000.0])
    losses = []
    for penalty in penalties:
        error = np.empty_like(Y)
        for kept, left in LeaveOneGroupOut().split(X, Y, groups):
            error[left] = Y[left] - Ridge(alpha=penalty).fit(X[kept], Y[kept]).predict(X[left])
        losses.append((error**2).mean())
    coefficients, chosen = ridge_path(X, Y, groups, penalties)
    assert chosen == int(np.argmin(losses))
    assert chosen not in (0, 3)  # the case tells penalties apart
    np.testing.assert_allclose(coefficients.T, Ridge(alpha=penalties[chosen]).fit(X, Y).coef_, rtol=1e-8)


def test_ridge_features_agrees_with_scikit_learn_and_sums_components():
    names = ["A", "B", "C", "D"]
    train = random_screen([*names, "A+B"])
    F = np.random.default_rng(2).normal(size=(6, 3))
    train.uns["perturbation_features"]["f"] = table(F, [*names, "E", "G"])
    model = RidgeFeatures(alphas=[0.3])
    query = question([("x0", "E", "1"), ("x1", "E+G", "1+1")], x0=[1] * 6, x1=[2] * 6)
    seen = centroids(train)
    X = np.stack(
        [F[[names.index(p) for p in label.split("+")]].sum(axis=0) for label in seen.conditions["perturbation"]]
    )
    penalty = 0.3 * ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    reference = Ridge(alpha=penalty).fit(X, seen.deltas)
    expected = reference.predict(np.stack([F[4], F[4] + F[5]])) + np.array([[1], [2]])
    np.testing.assert_allclose(answer(model, train, query), expected, rtol=1e-5)


def test_ridge_features_shrinks_fully_when_features_tell_nothing():
    rng = np.random.default_rng(4)
    names = [f"p{i}" for i in range(30)]
    train = random_screen(names, contexts=1)
    train.uns["perturbation_features"]["f"] = table(rng.normal(size=(30, 20)), names)
    assert RidgeFeatures().fit(Training(train)).state["alpha"] >= ALPHAS[-2]


def test_ridge_features_trusts_features_that_tell_all():
    train, effect, control = planted_screen()
    model = RidgeFeatures().fit(Training(train))
    assert model.state["alpha"] == ALPHAS[0]
    got = model.predict(Query(question([("a", "p8", "1")], a=control))).X[0] - control
    assert np.abs(got - effect[8]).max() < 0.05 * np.abs(effect[8]).max()


@pytest.mark.parametrize("values", [[[1.0, 2.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_ridge_features_needs_features_that_differ(values):
    train = random_screen(["A", "B"])
    train.uns["perturbation_features"]["f"] = table(values, ["A", "B"])
    with pytest.raises(CannotLearnError, match="needs training perturbations with different features f"):
        RidgeFeatures().fit(Training(train))


def test_ridge_features_needs_penalties():
    with pytest.raises(ContractError, match="must be numbers above 0"):
        RidgeFeatures(alphas=[0.0, 1.0]).fit(Training(planted_screen()[0]))


# --- nearest neighbours -------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9).filter(any), min_size=2, max_size=5))
def test_tanimoto_of_fingerprints_is_shared_over_all_bits(rows):
    bits = np.array(rows)
    got = distances(bits.astype(float), bits.astype(float), "tanimoto")
    for i, a in enumerate(bits):
        for j, b in enumerate(bits):
            assert got[i, j] == pytest.approx(1 - (a & b).sum() / (a | b).sum())
            assert got[i, j] == pytest.approx(jaccard(a, b))


@pytest.mark.parametrize("weights", ["distance", "uniform"])
def test_knn_agrees_with_scikit_learn(weights):
    names = [f"p{i}" for i in range(8)]
    train = random_screen(names, contexts=3)
    F = np.random.default_rng(5).normal(size=(10, 4))
    train.uns["perturbation_features"]["f"] = table(F, [*names, "q", "r"])
    seen = centroids(train)
    means = np.stack([seen.deltas[(seen.conditions["perturbation"] == name).to_numpy()].mean(axis=0) for name in names])
    reference = KNeighborsRegressor(3, metric="cosine", weights=weights, algorithm="brute").fit(F[:8], means)
    query = question([("x0", "q", "1"), ("x0", "q+r", "1+1"), ("x0", "p2", "1")], x0=[0] * 6)
    expected = reference.predict(np.stack([F[8], F[8] + F[9], F[2]]))
    np.testing.assert_allclose(answer(KnnFeatures(k=3, weights=weights), train, query), expected, rtol=1e-4, atol=1e-6)


def test_knn_of_the_same_features_answers_with_them_alone():
    train = random_screen(["A", "B", "C"])
    train.uns["perturbation_features"]["f"] = table([[1, 0.3], [0.3, 1], [0.6, 2], [2, 0.6]], ["A", "B", "C", "D"])
    query = question([("x0", "D", "1")], x0=[0] * 6)  # D points where A does: cosine distance 0
    np.testing.assert_allclose(
        answer(KnnFeatures(k=3), train, query),
        answer(PerturbationMean(), train, question([("x0", "A", "1")], x0=[0] * 6)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (KnnFeatures(k=0), "k 0 must be"),
        (KnnFeatures(k=1, metric="euclid"), "metric is one of"),
        (KnnFeatures(k=1, weights="none"), "weights is one of"),
    ],
)
def test_knn_refusals(model, message):
    train = random_screen(["A", "B", "C"])
    train.uns["perturbation_features"]["f"] = table([[1], [2], [0]], ["A", "B", "C"])
    with pytest.raises(ContractError, match=message):
        model.fit(Training(train))


def test_knn_takes_as_many_neighbours_as_there_are(capsys):
    train = random_screen(["A", "B", "C"])
    train.uns["perturbation_features"]["f"] = table(np.random.default_rng(6).normal(size=(4, 2)), ["A", "B", "C", "D"])
    query = question([("x0", "D", "1")], x0=[0] * 6)
    many = answer(KnnFeatures(k=7), train, query)
    assert "k is 7, but training has 3 perturbations: all are neighbours" in capsys.readouterr().out
    assert np.array_equal(many, answer(KnnFeatures(k=3), train, query))
    assert capsys.readouterr().out == ""


def test_knn_finds_nothing_like_a_perturbation_whose_features_are_zero(capsys):
    train = random_screen(["A", "B", "C"])
    train.uns["perturbation_features"]["f"] = table([[1, 0], [0, 1], [0, 0], [0, 0]], ["A", "B", "C", "D"])
    model = KnnFeatures(k=1).fit(Training(train))
    assert "no neighbours, features f all zero: C\n" in capsys.readouterr().out
    assert len(model.state["deltas"]) == 2
    with pytest.raises(UnseenError, match="perturbation D: its features f are all zero") as error:
        model.predict(Query(question([("x0", "A", "1"), ("x0", "D", "1")], x0=[0] * 6)))
    assert (error.value.unseen.tolist(), error.value.reason) == ([False, True], "features are all zero")
    only = train[train.obs["perturbation"].isin(["control", "C"]).to_numpy()].copy()
    with pytest.raises(CannotLearnError, match="of all perturbations in training are zero"):
        KnnFeatures(k=1).fit(Training(only))


def test_features_are_kept_for_the_prediction(tmp_path):
    train, _, control = planted_screen()
    query = question([("a", "p9", "1")], a=control)
    del query.uns["perturbation_features"]
    for cls in (Linear, RidgeFeatures, KnnFeatures):
        model = cls(features="f").fit(Training(train))
        model.save(tmp_path)
        assert np.array_equal(cls(features="f").load(tmp_path).predict(Query(query)).X, model.predict(Query(query)).X)
