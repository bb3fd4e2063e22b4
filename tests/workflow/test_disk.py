"""What a run may take of the disk, said before it starts."""

import shutil
from collections import namedtuple

import pytest
import yaml
from project import MINI, ROOT, default_configuration

import disk
from code_hash import Code
from plan import Plan

CODE = Code(ROOT)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The mini configuration in an empty folder, with a source of 1 MB."""
    monkeypatch.chdir(tmp_path)
    config = default_configuration()
    mini = yaml.safe_load(MINI.read_text())
    config["run"] |= mini["run"]
    config["datasets"] |= mini["datasets"]
    config["datasets"]["mini"]["source"] = {"format": "h5ad", "path": "{data}/screen.h5ad"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/screen.h5ad").write_bytes(bytes(1_000_000))
    return Plan(config, CODE)


def test_what_is_not_there_yet_is_said_to_be_unknown(plan, tmp_path):
    (tmp_path / "data/screen.h5ad").unlink()
    assert disk.estimate(plan) == (0, ["mini"])
    assert "need of mini known once imported" in disk.words(plan)
    assert "about" not in disk.words(plan)


@pytest.mark.parametrize(
    "source",
    [
        {"format": "h5ad", "path": "{data}/screen.h5ad", "url": "https://example.org/screen.h5ad"},
        {"format": "mtx", "matrix": {"path": "{data}/screen.h5ad", "url": "https://example.org/screen.h5ad"}},
    ],
)
def test_what_is_to_be_fetched_counts_once_it_is_there(plan, tmp_path, source):
    known = disk.estimate(plan)
    plan.config["datasets"]["mini"]["source"] = source
    assert disk.estimate(plan) == known
    (tmp_path / "data/screen.h5ad").unlink()
    assert disk.estimate(plan) == (0, ["mini"])
    assert "need of mini known once imported" in disk.words(plan)


def test_a_run_takes_more_with_more_folds_models_and_seeds(plan):
    total, unknown = disk.estimate(plan)
    assert unknown == []
    cells = [chain for chain in plan.chains if plan.model(chain.model)["output"] == "cells"]
    size = disk.COMPRESSED * 1e6
    data = size * (disk.NORMALIZED["counts"] + disk.INTERMEDIATE + 2 * disk.FOLD)
    answers = len(cells) * (disk.CELLS * size + disk.ANSWER) + (len(plan.chains) - len(cells)) * disk.SMALL
    assert total == pytest.approx(data + answers)
    plan.run["seeds"] = [0, 1, 2]
    assert disk.estimate(Plan(plan.config, CODE))[0] > total


def test_once_imported_its_own_size_counts(plan, tmp_path):
    before, _ = disk.estimate(plan)
    (tmp_path / "results/mini").mkdir(parents=True)
    (tmp_path / "results/mini/normalized.h5ad").write_bytes(bytes(800_000))
    after, _ = disk.estimate(plan)
    assert after < before
    assert "0.8 MB of it there" in disk.words(plan)


def test_values_that_stages_link_to_count_once(plan, tmp_path):
    folder = tmp_path / "results/mini"
    folder.mkdir(parents=True)
    (folder / "normalized.h5ad").write_bytes(bytes(1000))
    before, _ = disk.estimate(plan)
    (folder / ".normalized.h5ad.values").write_bytes(bytes(5_000_000))
    for name in ("train", "query"):
        (folder / f".{name}.h5ad.values").hardlink_to(folder / ".normalized.h5ad.values")
    assert disk.estimate(plan)[0] == before + 5_000_000
    assert "5.0 MB of it there" in disk.words(plan)


def test_too_little_room_is_said_with_the_remedy(plan, monkeypatch):
    assert "may not be enough" not in disk.words(plan)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(9, 8, 1))
    assert "That may not be enough: make room" in disk.words(plan)
