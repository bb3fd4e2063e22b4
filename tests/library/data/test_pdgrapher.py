"""PDGrapher's files: samples become profiles and their controls, folds become roles by number and never by place."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch_files as made
from test_pickled import HOSTILE

from trueshift.contract import ContractError
from trueshift.data.loading import load
from trueshift.data.sources import pdgrapher
from trueshift.data.split_settings import asks, held_out_unit
from trueshift.data.splitting import make_split

GENES = ["G1", "G2", "G3"]
SETTINGS = {
    "kind": "profile",
    "columns": {
        "perturbation": {"from": "perturbation", "control": "control", "separator": None},
        "context": "cell_id",
        "modality": {"value": "drug"},
        "control_id": "control_id",
        "keep": ["idx"],
    },
}


def samples(count: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Attributes of samples; every third has the control of the first, and drugs come back."""
    rng = np.random.default_rng(seed)
    controls = rng.random((count, 3)).astype(np.float32)
    controls[::3] = controls[0]
    return [
        {
            "perturbagen_name": f"drug{i % 4}",
            "diseased": controls[i],
            "treated": rng.random(3).astype(np.float32),
            "intervention": np.zeros(3, dtype=np.float32),
            "gene_symbols": GENES,
            "mutations": np.zeros(3, dtype=np.float32),
        }
        for i in range(count)
    ]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    def stored(value: Any) -> Any:
        return made.plain(value) if isinstance(value, np.ndarray) else value

    rows = [made.data(**{name: stored(value) for name, value in sample.items()}) for sample in content]
    return made.write(path, rows)


def read(**files: Path) -> ad.AnnData:
    return pdgrapher.read(files, log=lambda _: None)


def test_samples_that_share_their_values_are_more_than_the_file_holds(tmp_path: Path) -> None:
    genes = [f"G{i}" for i in range(500)]
    profile, shared = made.plain(np.ones(500)), {"gene_symbols": genes, "perturbagen_name": "a"}
    rows = [made.data(diseased=profile, treated=profile, **shared) for _ in range(2000)]
    with pytest.raises(ContractError, match=r"x\.pt: 2000 samples × 500 genes, but the file is smaller"):
        read(A549=made.write(tmp_path / "x.pt", rows))


# --- samples ------------------------------------------------------------------------------------------


def test_samples_become_treated_rows_and_distinct_controls(tmp_path: Path) -> None:
    one, other = samples(), samples(4, seed=1)
    other[2]["diseased"] = one[0]["diseased"]  # of another line: a control of its own
    data = read(A549=write(tmp_path / "a.pt", one), PC3=write(tmp_path / "p.pt", other))
    obs = data.obs
    assert data.X.dtype == np.float32 and data.var_names.tolist() == GENES
    assert obs.index.tolist() == [
        *(f"A549:{i}" for i in range(5)),
        *[f"A549:control{i}" for i in (1, 2, 3, 4)],
        *[f"PC3:{i}" for i in range(4)],
        *[f"PC3:control{i}" for i in (1, 2, 3)],
    ]
    for line, content in (("A549", one), ("PC3", other)):
        here = data[(obs["cell_id"] == line) & ~obs["is_control"]]
        assert here.obs["idx"].tolist() == [str(i) for i in range(len(content))]
        assert here.obs["perturbation"].tolist() == [sample["perturbagen_name"] for sample in content]
        np.testing.assert_array_equal(here.X, [sample["treated"] for sample in content])
        np.testing.assert_array_equal(data[here.obs["control_id"]].X, [sample["diseased"] for sample in content])
    controls = obs[obs["is_control"]]
    assert set(controls["perturbation"]) == {"control"} and set(controls["idx"]) == set(controls["control_id"]) == {""}


def test_through_the_one_way_in(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", samples())
    settings = {**SETTINGS, "source": {"format": "pdgrapher", "files": {"A549": "{data}/a.pt"}}}
    data = load("lines", settings, tmp_path, log=lambda _: None)
    assert data.obs["is_control"].tolist() == [False] * 5 + [True] * 4
    assert data.obs["idx"].tolist() == ["0", "1", "2", "3", "4", *[""] * 4]
    assert set(data.obs.loc[~data.obs["is_control"], "control_id"]) <= set(data.obs_names)
    assert data.uns["trueshift"]["provenance"]["checksum"].startswith("sha256:")
    data.write_h5ad(tmp_path / "out.h5ad")
    with pytest.raises(ContractError, match="files not given"):
        load("lines", {**SETTINGS, "source": {"format": "pdgrapher"}}, tmp_path)
    with pytest.raises(ContractError, match=r"b\.pt: no such file"):
        load("lines", {**settings, "source": {"format": "pdgrapher", "files": {"A549": "{data}/b.pt"}}}, tmp_path)


def of_sample(idx: int, name: str, value: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda content: [{**sample, name: value} if i == idx else sample for i, sample in enumerate(content)]


def without(idx: int, name: str, new: str | None = None) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def change(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        value = content[idx].pop(name)
        content[idx] |= {new: value} if new else {}
        return content

    return change


MISTAKES = {
    "lacks": (without(2, "treated"), r"a\.pt: sample 2 has no attribute 'treated'; .*There are: perturbagen_name"),
    "misnamed": (without(1, "diseased", "deseased"), r"sample 1 has no attribute 'diseased'; did you mean 'deseased'"),
    "too short": (of_sample(3, "treated", np.zeros(2)), r"treated of sample 3 has shape \(2,\), but there are 3 gene"),
    "flat": (of_sample(1, "diseased", np.zeros((1, 3))), r"diseased of sample 1 has shape \(1, 3\)"),
    "other genes": (of_sample(4, "gene_symbols", ["G1", "G2", "G4"]), "sample 4 has other gene_symbols than sample 0"),
    "fewer genes": (of_sample(0, "gene_symbols", GENES[:2]), "sample 1 has other gene_symbols than sample 0"),
    "one gene twice": (
        lambda content: [{**sample, "gene_symbols": ["G1", "G2", "G1"]} for sample in content],
        "gene 'G1' occurs twice",
    ),
    "no names": (of_sample(0, "gene_symbols", 3), "gene_symbols of sample 0 is not a list of names"),
    "text": (of_sample(2, "treated", "high"), "treated of sample 2 is not a tensor of numbers"),
    "nan": (of_sample(2, "treated", np.array([0, np.nan, 1])), "treated of sample 2 is nan in gene G2"),
    "too large": (of_sample(2, "diseased", np.array([0, 0, 1e300])), r"diseased of sample 2 is 1e\+300 in gene G3"),
    "no drug": (of_sample(1, "perturbagen_name", " "), "perturbagen_name of sample 1 is ' '; it must be the name"),
    "control": (of_sample(1, "perturbagen_name", "control"), "perturbagen_name of sample 1 is 'control'"),
    "nothing": (lambda content: [], r"a\.pt: holds an empty list, not a list of samples"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_named(tmp_path: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    with pytest.raises(ContractError, match=message):
        read(A549=write(tmp_path / "a.pt", change(samples())))


def test_lines_must_have_the_same_genes(tmp_path: Path) -> None:
    one = write(tmp_path / "a.pt", samples())
    for names, message in (
        (["G1", "G2", "G4"], r"p\.pt: gene 'G3' is in only one of this and .*a\.pt"),
        (["G2", "G1", "G3"], r"p\.pt: the genes are in another order than in .*a\.pt"),
    ):
        other = [{**sample, "gene_symbols": names} for sample in samples()]
        with pytest.raises(ContractError, match=message):
            read(A549=one, PC3=write(tmp_path / "p.pt", other))


def test_other_contents_are_named(tmp_path: Path) -> None:
    for content, message in (
        ({"a": 1}, "holds a dict"),
        ([made.plain([1.0])], "sample 0 is an array, not a torch_geo"),
    ):
        with pytest.raises(ContractError, match=rf"a\.pt: {message}"):
            read(A549=made.write(tmp_path / "a.pt", content))


# --- folds --------------------------------------------------------------------------------------------

LINES = {"A549": 20, "PC3": 15}


def profiles() -> pd.DataFrame:
    """Canonical obs of two lines, rows shuffled; every drug has several samples."""
    rows = [(line, str(i)) for line, count in LINES.items() for i in range(count)]
    table = pd.DataFrame(rows, columns=["context", "idx"], index=[f"{line}:{i}" for line, i in rows])
    table["perturbation"] = [f"drug{int(i) % 6}" for _, i in rows]
    controls = pd.DataFrame({"context": [*LINES] * 4, "idx": "", "perturbation": "control"})
    controls.index = pd.Index([f"{line}:control{i}" for i, line in enumerate(controls["context"])])
    table = pd.concat([table, controls]).assign(batch="all", modality="drug")
    table["is_control"] = table["perturbation"] == "control"
    table["dose"] = np.where(table["is_control"], "0", "1")
    return table.sample(frac=1, random_state=0)


def folds(count: int, seed: int = 42) -> dict[int, dict[str, Any]]:
    """Five folds over samples, a fifth of what is not tested validates."""
    order = np.random.default_rng(seed).permutation(count)
    result = {}
    for fold in range(1, 6):
        test = np.sort(order[fold - 1 :: 5])
        rest = np.setdiff1d(order, test)
        val = rest[::5]
        lists = {"train": np.setdiff1d(rest, val), "val": val, "test": test}
        result[fold] = {f"{role}_index_backward": numbers for role, numbers in lists.items()}
        result[fold] |= {f"{role}_index_forward": None for role in lists}
    return result


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """The entry of the split; the folds are beside it."""
    paths = {line: str(made.write(tmp_path / f"{line}.pt", folds(count))) for line, count in LINES.items()}
    return {"type": "pdgrapher", "files": paths}


def test_folds_by_number_whatever_the_order_of_the_rows(files: dict[str, Any]) -> None:
    obs = profiles()
    tested = pd.Series(0, index=obs.index)
    for fold in "12345":
        split = make_split(obs, files, fold).set_index("cell")["role"]
        for line, count in LINES.items():
            for role in ("train", "val", "test"):
                numbers = folds(count)[int(fold)][f"{role}_index_backward"]
                here = (split == role) & (obs["context"] == line) & ~obs["is_control"]
                assert sorted(obs.loc[here, "idx"].astype(int)) == sorted(numbers)
        assert set(split[obs["is_control"]]) == {"control_input", "control_reference"}
        tested += split == "test"
        again = make_split(obs.iloc[::-1], files, fold).set_index("cell")["role"]
        pd.testing.assert_series_equal(again.loc[split.index], split)
    assert (tested[~obs["is_control"]] == 1).all()
    assert (asks(files), held_out_unit(files)) == ("seen", "perturbation")


def test_a_file_of_one_fold_and_lists_of_other_kinds(tmp_path: Path) -> None:
    obs = profiles()
    obs = obs[obs["context"] == "PC3"].rename(columns={"idx": "number"})
    obs["number"] = obs["number"].where(obs["is_control"], obs["number"] + ".0")  # as numbers beside missing ones are
    lists = {key: None if value is None else made.plain(value) for key, value in folds(15)[3].items()}
    lists["val_index_backward"] = folds(15)[3]["val_index_backward"].tolist()
    entry = {
        "type": "pdgrapher",
        "files": {"PC3": str(made.write(tmp_path / "one.pt", lists))},
        "index": "number",
        "k": 1,
    }
    roles = make_split(obs, entry, "1").set_index("cell")["role"]
    assert sorted(roles.index[roles == "test"]) == sorted(f"PC3:{i}" for i in folds(15)[3]["test_index_backward"])
    with pytest.raises(ContractError, match="no fold 2"):
        make_split(obs, entry, "2")
    with pytest.raises(ContractError, match=r"one\.pt: no fold 2 .*; it is of one fold alone: say k: 1"):
        make_split(obs, {**entry, "k": 5}, "2")


def changed(role: str, change: Callable[[np.ndarray], Any]) -> dict[int, dict[str, Any]]:
    content = folds(20)
    content[1][f"{role}_index_backward"] = change(content[1][f"{role}_index_backward"])
    return content


WRONG = {
    "beyond the data": (
        lambda: changed("test", lambda x: np.append(x, [23, 20])),
        r"A549\.pt: 2 of 6 samples listed under test are not in the data, first 23 \(idx of A549 goes from 0 to 19\)",
    ),
    "in no list": (
        lambda: changed("train", lambda x: x[1:]),
        r"split: 1 of 35 perturbed cells have no role, first A549:\d+: no list of .*A549\.pt has its idx",
    ),
    "in two lists": (
        lambda: changed("test", lambda x: np.append(x, folds(20)[1]["train_index_backward"][:2])),
        r"A549\.pt: sample \d+ is listed under train and under test \(2 such",
    ),
    "twice in a list": (lambda: changed("val", lambda x: np.append(x, x[:1])), "is listed under val and under val"),
    "no list": (
        lambda: changed("val", lambda x: None),
        r"val_index_backward of fold 1 is not a list of sample numbers",
    ),
    "real numbers": (lambda: changed("val", lambda x: x + 0.5), "is not a list of sample numbers"),
    "negative": (lambda: changed("val", lambda x: -x - 1), "is not a list of sample numbers"),
    "ragged": (lambda: changed("val", lambda x: [[1], [2, 3]]), "is not a list of sample numbers"),
    "forward alone": (
        lambda: {1: {key: value for key, value in folds(20)[1].items() if key.endswith("forward")}},
        r"A549\.pt: fold 1 has no train_index_backward; did you mean train_index_forward",
    ),
    "four folds": (
        lambda: {i: x for i, x in folds(20).items() if i > 1},
        r"A549\.pt: no fold 1 .*there are: 2, 3, 4, 5",
    ),
    "a list": (lambda: [1, 2], "holds a list, not a dict of folds"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_folds_that_do_not_fit_are_named(tmp_path: Path, files: dict[str, Any], wrong: str) -> None:
    make, message = WRONG[wrong]
    made.write(tmp_path / "A549.pt", make())
    with pytest.raises(ContractError, match=message):
        make_split(profiles(), files, "1")


def test_data_that_do_not_fit_are_named(tmp_path: Path, files: dict[str, Any]) -> None:
    obs = profiles()
    one = {**files, "files": {"A549": files["files"]["A549"]}}
    gone = obs.drop(index="A549:7")
    first = obs.index[~obs["is_control"] & (obs["context"] == "A549")][0]
    more = obs.assign(idx=obs["idx"].where(obs.index != first, "77"))
    cases = [
        (
            obs,
            one,
            r"15 of 35 perturbed cells have no role, first PC3:\d+: its context PC3 has no file; add it to files",
        ),
        (
            obs,
            {**files, "files": {**files["files"], "PC4": "x.pt"}},
            "no perturbed cells of context PC4; did you mean PC3",
        ),
        (obs, {**files, "files": {**files["files"], "PC3": "x.pt"}}, r"x\.pt: no such file"),
        (obs.drop(columns="idx"), files, r"the data have no column idx .*columns: keep: \[idx\]"),
        (obs.assign(idx="a"), files, "idx of .* is 'a', must be the number of a sample"),
        (
            obs.replace({"idx": {"3": "4"}}),
            files,
            "idx 4 of context A549 stands for two cells, A549:[34] and A549:[34]",
        ),
        (gone, files, r"A549\.pt: 1 of \d+ samples listed under \w+ are not in the data, first 7 "),
        (more, files, "not in the data|no role"),
    ]
    for table, entry, message in cases:
        with pytest.raises(ContractError, match=message):
            make_split(table, entry, "1")
    for entry, message in (
        ({"type": "pdgrapher"}, "pdgrapher needs files"),
        ({"type": "kfold_cells", "k": 2, "files": files["files"]}, "kfold_cells: no setting files"),
        ({**files, "folds": {"a": 1}}, "pdgrapher: no setting folds"),
    ):
        with pytest.raises(ContractError, match=message):
            make_split(obs, entry, "1")


def test_a_hostile_file_of_folds_runs_nothing(tmp_path: Path, files: dict[str, Any]) -> None:
    file = tmp_path / "pwned"
    made.archive(tmp_path / "PC3.pt", pickle.dumps({1: HOSTILE["os.system"](file)}, 2), [])
    with pytest.raises(ContractError, match=r"PC3\.pt: the pickle names 'posix\.system'"):
        make_split(profiles(), files, "1")
    assert not file.exists()
