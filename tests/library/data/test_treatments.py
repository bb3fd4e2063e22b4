"""Labels and doses of a source: controls of any type, where a label is split, units of doses."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from trueshift.contract import ContractError
from trueshift.data.canonical.treatments import treatments

DEFAULTS = {"dose": {"value": "1"}, "modality": {"value": "unknown"}}


def treated(
    guides: list[Any], doses: list[Any] | None = None, log: list[str] | None = None, **columns: Any
) -> tuple[list[str], list[str], str]:
    """Perturbations, doses and the unit of cells with these labels; ``dose`` and ``perturbation`` add settings."""
    obs = pd.DataFrame({"guide": guides}, index=[f"c{i}" for i in range(len(guides))])
    spec = {**DEFAULTS, "perturbation": {"from": "guide", "control": "NT", **columns.get("perturbation", {})}}
    if doses is not None:
        obs["amount"] = doses
        spec["dose"] = {"from": "amount", **columns.get("dose", {})}
    table, unit = treatments(obs, spec, "set", (log if log is not None else []).append)
    return table["perturbation"].tolist(), table["dose"].tolist(), unit


@pytest.mark.parametrize(
    ("labels", "control"),
    [
        ([0, 0, 1, 2], 0),
        ([0.0, 0.0, 1.0, 2.0], 0),
        ([9, 9, 1, 2], 9),
        ([9, 9, 1, 2], [9.0]),
        ([0, 0, 1, 2], "0"),
        (["0", "0", "1", "2"], [0.0]),
        ([None, None, "1", "2"], None),
        ([None, "None", "1", "2"], "None"),
        ([np.nan, "NT", "1", "2"], ["NT", None]),
    ],
)
def test_controls_of_any_type(labels: list[Any], control: Any) -> None:
    assert treated(labels, perturbation={"control": control})[0] == ["control", "control", "1", "2"]


@pytest.mark.parametrize("labels", [[False, True], ["false", "true"], ["FALSE", "TRUE"]])
def test_a_boolean_control(labels: list[Any]) -> None:
    assert treated(labels, perturbation={"control": False})[0] == ["control", str(labels[1])]


def test_controls_without_a_label_are_counted_and_must_be_declared() -> None:
    said: list[str] = []
    treated([None, "A", None], perturbation={"control": None}, log=said)
    assert any(line.startswith("2 cells without a perturbation label") for line in said)
    with pytest.raises(ContractError, match=r"'guide' has 1 cells without a label.*control: null"):
        treated([None, "A", "NT"])
    with pytest.raises(ContractError, match="no cell has the control label 'None'"):
        treated(["B", "A", "NT"], perturbation={"control": None})


def test_one_perturbation_twice_is_that_perturbation() -> None:
    said: list[str] = []
    labels = ["NT", "NT+NT", "A+A", "A+A", "B+A+B", "A+NT"]
    doses = ["0", "0", "2", "2+2", "1+3+1", "5+1"]
    assert treated(labels, doses, said)[:2] == (
        ["control", "control", "A", "A", "A+B", "A"],
        ["0", "0", "2", "2", "3+1", "5"],
    )
    assert any(line.startswith("3 cells have labels that name one perturbation several times") for line in said)
    assert any("1 components of combinations occur nowhere alone: B" in line for line in said)
    with pytest.raises(ContractError, match=r"'A' occurs twice in one label, with the doses 1 and 2"):
        treated(["NT", "A+A"], ["0", "1+2"])


@pytest.mark.parametrize(
    "label",
    [
        "Na+/K+ ATPase blocker",
        "NAD+ synthesis inhibitor",
        "Ca2+ ionophore A23187",
        "Na+",
        "+A",
        "A++B",
        "A+ B",
        "(+)-JQ1",
        "K(+)B",
        "1+2",
        "A+5",
        "Li+(aq)",
        "A/+B",
        "A+]B",
    ],
)
def test_what_is_no_combination_is_not_split(label: str) -> None:
    with pytest.raises(ContractError, match=r"separator: null") as error:
        treated(["NT", "Z", label])
    assert f"'{label}'" in str(error.value)
    assert len(set(treated(["NT", "Z", label], perturbation={"separator": None})[0])) == 3


@pytest.mark.parametrize(
    ("labels", "separator", "expected"),
    [
        (["NT", "A + B"], "+", ["control", "A+B"]),
        (["NT", "A", "B", "A +B"], "+", ["control", "A", "B", "A+B"]),
        (["NT", 1, 2, "1+2"], "+", ["control", "1", "2", "1+2"]),
        (["NT", "1", "17"], "+", ["control", "1", "17"]),
        (["NT", "(x", "/y"], "+", ["control", "(x", "/y"]),
        (["NT", "LPS+poly(I:C)"], "+", ["control", "LPS+poly(I:C)"]),
        (["NT", "(R)-x", "(R)-x+JQ1"], "+", ["control", "(R)-x", "(R)-x+JQ1"]),
        (["NT", "A, B"], ",", ["control", "A+B"]),
        (["NT", "A|B|C"], "|", ["control", "A+B+C"]),
    ],
)
def test_what_looks_like_names_is_split(labels: list[Any], separator: str, expected: list[str]) -> None:
    assert treated(labels, perturbation={"separator": separator})[0] == expected


@pytest.mark.parametrize(
    ("doses", "unit", "written", "found"),
    [
        (["100 nM", "1 µM"], "uM", ["0.1", "1"], "uM"),
        (["100 nM", "1 μM"], None, ["0.1", "1"], "uM"),
        (["100nM", "1e3 nm"], None, ["100", "1000"], "nM"),
        (["1 M", "2 mM"], None, ["1000000", "2000"], "uM"),
        (["1 M", "500 pM"], "nM", ["1000000000", "0.5"], "nM"),
        (["5 ng/ml", "0.02 ug/mL"], None, ["0.005", "0.02"], "ug/ml"),
        (["5 ng/ml", "1 mg/ml"], "ng/ml", ["5", "1000000"], "ng/ml"),
        (["10", "100 nM"], "uM", ["10", "0.1"], "uM"),
        (["0", "100 nM"], None, ["0", "100"], "nM"),
        (["3 h", "6 h"], "h", ["3", "6"], "h"),
        (np.array([0.1, 10], dtype=np.float32), None, ["0.1", "10"], ""),
        (np.array([0.1, 1 / 3], dtype=np.float32).astype(float), None, ["0.1", "0.33333334"], ""),
        ([0.1, 1 / 3], None, ["0.1", "0.333333333333"], ""),
        (["1", "1e-3"], None, ["1", "0.001"], ""),
    ],
)
def test_doses_are_converted_to_one_unit(doses: Any, unit: str | None, written: list[str], found: str) -> None:
    amounts = pd.Series(list(doses), dtype=getattr(doses, "dtype", object))
    amounts = pd.concat([amounts.iloc[:1], amounts], ignore_index=True)  # that of the control is not read
    assert treated(["NT", "A", "B"], amounts.to_numpy(), dose={"unit": unit})[1:] == (["0", *written], found)


def test_components_have_doses_in_units_of_their_own() -> None:
    assert treated(["NT", "A+B", "A"], ["DMSO", "100 nM+1 uM", "10 nM"])[1:] == (["0", "0.1+1", "0.01"], "uM")


@pytest.mark.parametrize(
    ("doses", "settings", "message"),
    [
        (
            ["10", "100 nM"],
            {},
            r"dose: some doses have a unit, such as '100 nM', and some have none, such as '10'; .*unit",
        ),
        (["5 ng/ml", "1 uM"], {}, r"'1 uM' and '5 ng/ml' cannot be converted into one another"),
        (["5 ng/ml", "1 uM"], {"unit": "uM"}, r"dose '5 ng/ml' cannot be converted to unit: uM"),
        (["3 h", "1 uM"], {"unit": "h"}, r"dose '1 uM' cannot be converted to unit: h"),
        (["3 drops", "1 uM"], {}, r"dose '3 drops' is not a number with a known unit .*set unit: drops"),
        (["1,5 uM", "1 uM"], {}, r"dose '1,5 uM' is not a number with a known unit"),
        (["high", "1 uM"], {}, r"dose 'high' of 'A' is not a number"),
        (
            ["100 nM", "1 uM"],
            {"extract": "^([0-9.]+)"},
            r"extract .* drops the unit of doses such as '100 nM' and '1 uM'",
        ),
        (["100 nM", "10 nM"], {"extract": "^([0-9.]+)", "unit": "uM"}, r"extract .* drops the unit of doses such as"),
        (["x_100nM_a", "x_1_a"], {"extract": "_([0-9.]+)"}, r"extract .* drops the unit of doses such as"),
    ],
)
def test_doses_that_cannot_be_read_are_refused(doses: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        treated(["NT", "A", "B"], [None, *doses], dose=settings)


def test_what_the_advice_about_extract_says_works() -> None:
    pattern = "([0-9.]+ ?[a-zA-Zµ/]+)"
    assert treated(["NT", "A", "B"], [None, "x_100nM_a", "x_1 µM_a"], dose={"extract": pattern})[1:] == (
        ["0", "0.1", "1"],
        "uM",
    )
    assert treated(["NT", "A"], [None, "x_10_a"], dose={"extract": "_([0-9.]+)_"})[1] == ["0", "10"]
    assert treated(["NT", "A"], ["0", "10 uM"], dose={"extract": "([0-9.]+)", "unit": "uM"})[1:] == (["0", "10"], "uM")
