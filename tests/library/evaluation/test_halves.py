from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from trueshift.contract import ContractError
from trueshift.evaluation.halves import Duplicates, Halves, draw_halves, halvings, read_arrays, write_arrays
from trueshift.evaluation.reference import TestCells, truth_statistics
from trueshift.evaluation.truth import Truth

Sides = tuple[Truth, TestCells, Halves, Duplicates]


@pytest.fixture(scope="module")
def sides(truth_file: ad.AnnData) -> Sides:
    truth, test = truth_statistics(truth_file), TestCells(truth_file)
    return truth, test, *halvings(test, truth, {"duplicate_halvings": 4, "seed": 0})


def test_half_of_each_condition_is_drawn(truth_file: ad.AnnData) -> None:
    masks = draw_halves(TestCells(truth_file), np.arange(3), 2, seed=0)
    for mask in masks:
        taken = truth_file.obs[mask].groupby(["context", "perturbation"]).size().to_dict()
        assert taken == {("A", "P"): 40, ("A", "Q"): 15, ("B", "P"): 7}
        assert set(truth_file.obs.loc[mask, "role"]) == {"test"}
    assert (masks[0] != masks[1]).any()


def test_half_b_is_what_a_file_of_half_b_gives(truth_file: ad.AnnData, sides: Sides) -> None:
    truth, _, halves, _ = sides
    assert halves.conditions.tolist() == [0, 1]
    for halving in range(4):
        alone = truth_statistics(truth_file[~halves.in_a[halving]].copy()).take(halves.conditions)
        half = halves.truth(halving, truth)
        for name in ("mean", "variance", "z", "p_adjusted", "control_input", "control_reference"):
            np.testing.assert_allclose(getattr(half, name), getattr(alone, name), rtol=1e-4, atol=1e-5, err_msg=name)
        assert (half.order == alone.order).mean() > 0.95  # float32 makes new ties
        terms = half.conditions["distance_within"].to_numpy(float)
        np.testing.assert_allclose(terms, alone.conditions["distance_within"].to_numpy(float), rtol=1e-5)
        assert half.conditions["n_cells"].tolist() == [80, 30]


def test_half_a_is_tested_against_the_input_controls(truth_file: ad.AnnData, sides: Sides) -> None:
    """Swapping the roles of the controls and keeping half A gives its tests."""
    _, _, halves, duplicates = sides
    swapped = truth_file.copy()
    swapped.obs["role"] = swapped.obs["role"].replace(
        {"control_input": "control_reference", "control_reference": "control_input"}
    )
    in_a = halves.in_a[0] | truth_file.obs["role"].ne("test").to_numpy() | truth_file.obs["context"].eq("B").to_numpy()
    alone = truth_statistics(swapped[in_a].copy()).take(halves.conditions)
    np.testing.assert_allclose(duplicates.test(0).z, alone.z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(duplicates.test(0).p_adjusted, alone.p_adjusted, rtol=1e-4, atol=1e-6)


def test_the_halves_of_a_condition_share_no_cell(sides: Sides) -> None:
    _, test, halves, _ = sides
    for halving in range(4):
        for rows, condition in zip(halves.members(halving, test), halves.conditions, strict=True):
            assert not halves.in_a[halving, rows].any()
            assert len(rows) == len(test.of(condition)) - len(test.of(condition)) // 2


def test_the_file_gives_back_the_same(sides: Sides, tmp_path: Path) -> None:
    _, _, halves, _ = sides
    write_arrays(halves, tmp_path / "halves.npz")
    again = read_arrays(tmp_path / "halves.npz", Halves)
    for name, array in vars(halves).items():
        np.testing.assert_array_equal(getattr(again, name), array, err_msg=name)
    with pytest.raises(ContractError, match=r"none\.npz: no such file"):
        read_arrays(tmp_path / "none.npz", Halves)
