from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from trueshift.contract import ContractError, write_table
from trueshift.evaluation.reference import de_order, pseudobulks, training_means, truth_statistics
from trueshift.evaluation.truth import Truth, read_conditions, read_truth, to_table, write_truth

Build = Callable[..., ad.AnnData]


@pytest.fixture(scope="module")
def truth(truth_file: ad.AnnData) -> Truth:
    return truth_statistics(truth_file)


def rows(file: ad.AnnData, **labels: str) -> np.ndarray:
    mask = np.logical_and.reduce([file.obs[column] == value for column, value in labels.items()])
    return file[mask].X.toarray().astype(float)


def test_means_come_from_the_right_cells(truth: Truth, truth_file: ad.AnnData) -> None:
    assert truth.conditions[["context", "perturbation"]].to_numpy().tolist() == [["A", "P"], ["A", "Q"], ["B", "P"]]
    for i, (context, perturbation) in enumerate([("A", "P"), ("A", "Q"), ("B", "P")]):
        cells = rows(truth_file, context=context, perturbation=perturbation)
        np.testing.assert_allclose(truth.mean[i], cells.mean(0), rtol=1e-6)
        for half in ("control_input", "control_reference"):
            expected = rows(truth_file, context=context, role=half).mean(0)
            np.testing.assert_allclose(getattr(truth, half)[i], expected, rtol=1e-6)


def test_genes_are_tested_against_the_reference_half_and_ordered(truth: Truth, truth_file: ad.AnnData) -> None:
    for i, (context, perturbation) in enumerate([("A", "P"), ("A", "Q"), ("B", "P")]):
        cells = rows(truth_file, context=context, perturbation=perturbation)
        controls = rows(truth_file, context=context, role="control_reference")
        p = stats.mannwhitneyu(cells, controls, axis=0, method="asymptotic", use_continuity=False).pvalue
        adjusted = stats.false_discovery_control(p)
        np.testing.assert_allclose(truth.p_value[i], p, atol=1e-12)
        np.testing.assert_allclose(truth.p_adjusted[i], adjusted, atol=1e-12)
        size = np.abs(cells.mean(0) - controls.mean(0))
        expected = [gene for _, _, gene in sorted(zip(truth.p_adjusted[i], -size, range(30), strict=True))]
        assert truth.order[i].tolist() == expected
        assert truth.conditions.loc[i, "n_deg"] == (adjusted < 0.05).sum()
    assert set(truth.order[0, :10]) == set(range(10))
    assert truth.conditions.loc[1, "n_deg"] == 0


def test_input_controls_do_not_touch_the_truth(truth: Truth, truth_file: ad.AnnData) -> None:
    other = truth_file.copy()
    values = other.X.toarray()
    values[(other.obs["role"] == "control_input").to_numpy()] = 7
    other.X = values
    changed = truth_statistics(other)
    for field in ("mean", "control_reference", "z", "p_value", "p_adjusted", "order"):
        np.testing.assert_allclose(getattr(changed, field), getattr(truth, field), rtol=1e-6)
    assert np.allclose(changed.control_input, 7)


def test_counts_flags_and_clusters(truth: Truth) -> None:
    conditions = truth.conditions
    assert conditions["n_cells"].tolist() == [80, 30, 15]
    assert conditions["n_control_input"].tolist() == [60, 60, 35]
    assert conditions["n_control_reference"].tolist() == [60, 60, 34]
    assert conditions["n_controls"].tolist() == [120, 120, 69]
    assert conditions["cluster"].tolist() == ["P", "Q", "P"]
    assert conditions["flags"].tolist() == ["", "", "few_controls"]
    assert truth.controls_suffice.all()


@pytest.mark.parametrize(
    ("n_input", "n_reference", "flags"),
    [
        (50, 50, ""),
        (50, 49, "few_controls"),
        (20, 20, "few_controls"),
        (20, 19, "too_few_controls"),
        (60, 0, "too_few_controls"),
        (0, 60, "too_few_controls"),
    ],
)
def test_control_policy(build_truth: Build, n_input: int, n_reference: int, flags: str) -> None:
    rng = np.random.default_rng(3)
    cells = rng.normal(size=(150, 4))
    file = build_truth({("A", "P", "1"): cells[:30]}, {"A": (cells[30 : 30 + n_input], cells[90 : 90 + n_reference])})
    truth = truth_statistics(file)
    assert truth.conditions.loc[0, "flags"] == flags
    assert truth.controls_suffice[0] == (flags != "too_few_controls")
    assert pd.isna(truth.conditions.loc[0, "n_deg"]) == (flags == "too_few_controls")
    assert np.isnan(truth.p_value).all() == (flags == "too_few_controls")
    assert np.isnan(truth.control_input).all() == (n_input == 0)
    assert not np.isnan(truth.mean).any()


def test_a_single_profile_is_ordered_by_its_difference(build_truth: Build) -> None:
    controls = np.zeros((50, 4))
    file = build_truth({("A", "P", "1"): np.array([[0.1, -3, 2, 0]])}, {"A": (controls, controls)})
    truth = truth_statistics(file)
    assert truth.order[0].tolist() == [1, 2, 0, 3]
    assert truth.conditions.loc[0, "flags"] == "one_profile"
    assert pd.isna(truth.conditions.loc[0, "n_deg"])


def test_order_breaks_ties_by_difference_then_name() -> None:
    p = np.array([[0.2, 0.01, 0.2, 0.2, 0.01]])
    difference = np.array([[0.5, 0.1, -0.9, 0.5, -0.1]])
    assert de_order(p, difference, np.array(["d", "z", "c", "b", "a"])).tolist() == [[4, 1, 2, 3, 0]]


def test_a_permutation_of_genes_changes_nothing_but_their_places(truth: Truth, truth_file: ad.AnnData) -> None:
    places = np.random.default_rng(4).permutation(30)
    moved = truth_statistics(truth_file[:, places].copy())
    np.testing.assert_array_equal(moved.genes[moved.order], truth.genes[truth.order])
    np.testing.assert_array_equal(moved.p_adjusted, truth.p_adjusted[:, places])
    np.testing.assert_array_equal(moved.mean, truth.mean[:, places])


def test_dense_and_sparse_agree(truth: Truth, truth_file: ad.AnnData) -> None:
    file = truth_file.copy()
    file.X = file.X.toarray()
    dense = truth_statistics(file)
    np.testing.assert_array_equal(dense.order, truth.order)
    np.testing.assert_allclose(dense.mean, truth.mean, rtol=1e-6)


def test_the_order_of_cells_does_not_matter(truth: Truth, truth_file: ad.AnnData) -> None:
    shuffled = truth_statistics(truth_file[np.random.default_rng(5).permutation(truth_file.n_obs)].copy())
    np.testing.assert_array_equal(shuffled.p_value, truth.p_value)
    np.testing.assert_array_equal(shuffled.order, truth.order)


def test_file_round_trip_is_exact(truth: Truth, tmp_path: Path) -> None:
    without = replace(truth, conditions=truth.conditions.assign(n_deg=pd.array([10, pd.NA, 0], dtype="Int32")))
    for name, given in {"a": truth, "b": without}.items():
        path = tmp_path / f"{name}.parquet"
        write_truth(given, path)
        read = read_truth(path)
        pd.testing.assert_frame_equal(read.conditions, given.conditions)
        pd.testing.assert_frame_equal(read_conditions(path), given.conditions)
        for field in fields(Truth)[1:]:
            before, after = getattr(given, field.name), getattr(read, field.name)
            assert before.dtype == after.dtype, field.name
            np.testing.assert_array_equal(after, before)


def test_the_file_has_one_row_per_condition_and_gene(truth: Truth) -> None:
    table = to_table(truth)
    assert len(table) == 3 * 30
    assert not table.duplicated(["context", "perturbation", "dose", "gene"]).any()
    first = table[table["rank"] == 1]
    assert first["gene"].tolist() == truth.genes[truth.order[:, 0]].tolist()


def test_pseudobulks_by_hand() -> None:
    matrix = np.array([[1.0, 2], [3, 4], [10, 20]], dtype=np.float32)
    np.testing.assert_allclose(pseudobulks(matrix, np.array([1, 1, 0]), 2), [[10, 20], [2, 3]])


def test_conditions_that_do_not_match_are_named(truth_file: ad.AnnData) -> None:
    file = truth_file.copy()
    file.uns["conditions"] = file.uns["conditions"].iloc[:2]
    with pytest.raises(ContractError, match=r"B \| P \| 1 was not asked"):
        truth_statistics(file)
    with pytest.raises(ContractError, match=r"B \| P \| 1 was asked for but has no rows"):
        truth_statistics(truth_file[truth_file.obs["role"].ne("test") | truth_file.obs["context"].eq("A")].copy())


def test_clusters_must_exist_and_be_unambiguous(truth_file: ad.AnnData) -> None:
    file = truth_file.copy()
    file.uns["trueshift"]["cluster"] = "donor"
    with pytest.raises(ContractError, match="donor, which is no column"):
        truth_statistics(file)
    file.obs["donor"] = [f"d{i % 2}" for i in range(file.n_obs)]
    with pytest.raises(ContractError, match=r"A \| P \| 1 have several values of donor"):
        truth_statistics(file)


def test_a_file_of_another_make_is_refused(truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no such file"):
        read_conditions(tmp_path / "none.parquet")
    write_table(to_table(truth).drop(columns="z"), tmp_path / "old.parquet")
    with pytest.raises(ContractError, match="column z is missing"):
        read_truth(tmp_path / "old.parquet")


def test_variances_distances_and_targets(truth: Truth, truth_file: ad.AnnData) -> None:
    cells = rows(truth_file, context="A", perturbation="P")
    np.testing.assert_allclose(truth.variance[0], cells.var(0, ddof=1), rtol=1e-5)
    pairs = pdist(cells)
    facts = truth.conditions.loc[0, ["bandwidth", "distance_within", "kernel_within"]].astype(float)
    expected = [np.median(pairs), pairs.mean(), np.exp(-(pairs**2) / (2 * np.median(pairs) ** 2)).mean()]
    np.testing.assert_allclose(facts, expected, rtol=1e-6)
    assert truth.panel.tolist() == [0, 0, 1]
    named = replace(truth, conditions=truth.conditions.assign(perturbation=["gene03", "gene07+gene01", "drug"]))
    assert [list(positions) for positions in named.targets] == [[3], [1, 7], []]


def test_training_means_weigh_conditions_not_cells(truth_file: ad.AnnData) -> None:
    train = truth_file[truth_file.obs["role"] != "control_reference"].copy()
    train.obs["role"] = train.obs["role"].replace("test", "train")
    contexts = pd.Series(["A", "B", "C"])
    centre, delta = training_means(train, contexts, 30)
    mean = {
        key: rows(train, context=key[0], perturbation=key[1]).mean(0)
        for key in [("A", "P"), ("A", "Q"), ("B", "P"), ("A", "control"), ("B", "control")]
    }
    np.testing.assert_allclose(centre[0], (mean["A", "P"] + mean["A", "Q"]) / 2)
    np.testing.assert_allclose(centre[1], mean["B", "P"])
    assert np.isnan(centre[2]).all()
    effects = [mean[key] - mean[key[0], "control"] for key in [("A", "P"), ("A", "Q"), ("B", "P")]]
    np.testing.assert_allclose(delta, np.tile(np.mean(effects, axis=0), (3, 1)), atol=1e-12)
    assert np.isnan(training_means(None, contexts, 30)[0]).all()
    bare = train[~((train.obs["context"] == "B") & train.obs["is_control"])].copy()
    with pytest.raises(ContractError, match="context B has perturbed cells but no control"):
        training_means(bare, contexts, 30)
