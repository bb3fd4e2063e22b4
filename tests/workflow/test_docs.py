"""The pages that show how to add something are followed to the letter, in a copy of the project.

The first line of a fenced block says what it is: ``bash`` is run; ``python PATH`` or ``yaml PATH`` is a new file;
``PATH, at the end`` is appended; ``PATH, after: TEXT`` goes in after the one line that begins with TEXT.
"""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from project import ROOT, Project

BLOCK = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)\)")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "config/README.md", *(ROOT / "docs").glob("*.md")])
FOLD = "results/simulated/new_context/c1"


class Guide(Project):
    """A copy of the project in which a page is followed, with the environments that are already built."""

    def __init__(self, folder):
        super().__init__(folder)
        shutil.copy(ROOT / "pyproject.toml", folder)
        shutil.copytree(ROOT / "tests/conformance", folder / "tests/conformance")
        shutil.copy(ROOT / "tests/prefix.py", folder / "tests")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        (folder / ".snakemake").mkdir()
        (folder / ".snakemake/conda").symlink_to(ROOT / ".snakemake/conda")

    def follow(self, page, scripts=()):
        """Does what the blocks of a page say, in order; returns what the commands printed.

        ``scripts`` are files that readers run in an environment of their own: here that of the tests.
        """
        printed = []
        for language, place, content in BLOCK.findall((ROOT / "docs" / page).read_text()):
            if language == "bash":
                printed.append(self.bash(content))
            elif place:
                self.write(*re.fullmatch(r"([^,]+?)(?:, (at the end|after: .+))?", place).groups(), content)
                if place in scripts:
                    subprocess.run([sys.executable, place], cwd=self.folder, check=True)
        assert printed
        return printed

    def write(self, path, where, content):
        file = self.folder / path
        if where is None:
            assert not file.exists(), f"{path} exists already"
            file.write_text(content)
            return
        lines = file.read_text().splitlines(keepends=True)
        position = len(lines)
        if where != "at the end":
            text = where.removeprefix("after: ")
            found = [i for i, line in enumerate(lines) if line.startswith(text)]
            assert len(found) == 1, f"{path}: {len(found)} lines begin with {text!r}"
            position = found[0] + 1
        file.write_text("".join([*lines[:position], content, *lines[position:]]))

    def bash(self, command):
        environment = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def scores(self, folder):
        return pd.read_parquet(self.folder / folder / "scores.parquet")


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """One copy for all pages: they add different things."""
    return Guide(tmp_path_factory.mktemp("guide"))


def test_add_a_model(guide):
    conformance, _ = guide.follow("add-a-model.md")
    assert re.search(r"\d+ passed", conformance)
    assert "failed" not in conformance
    median = guide.scores(f"{FOLD}/median_shift/default/seed0")
    headline = median.query("metric == 'r2_topk' and k == '20'")["value"]
    assert len(headline) > 5
    assert headline.mean() > 0.5, "two training contexts with the same effects predict the third"


def test_add_a_dataset(guide):
    _, printed = guide.follow("add-a-dataset.md")
    assert re.search(r"^\s*import.data\s+1\s*$", printed, re.M), printed
    fold = "results/my_screen/new_line/RPE1"
    truth = pd.read_parquet(guide.folder / fold / "truth_stats.parquet")
    assert set(truth["perturbation"]) == {"KLF1", "MYC", "TP53"}
    assert set(truth["context"]) == {"RPE1"}
    assert truth["n_controls"].eq(120).all()
    assert truth["gene"].nunique() == 60
    no_change = guide.scores(f"{fold}/no_change/default/seed0").query("metric == 'r2_topk' and k == '20'")
    assert len(no_change) == 3
    assert np.allclose(no_change["value"], 0, atol=1e-4)
    table = pd.read_csv(guide.folder / "results/tables/topk_r2_wide.csv", dtype=str)
    assert set(table["model"]) == {"no_change", "mean_shift", "perturbation_mean"}
    assert table["model"].iloc[0] == "perturbation_mean", "the effects are the same in both lines"


def test_add_a_metric(guide):
    guide.follow("add-a-metric.md")
    rows = guide.scores(f"{FOLD}/no_change/default/seed0").query("metric == 'direction_topk'")
    assert set(rows["k"]) == {"20", "40", "50", "80", "100", "all"}
    assert rows["value"].eq(0.5).all(), "a model that moves nothing is a coin toss"
    ceiling = pd.read_parquet(guide.folder / FOLD / "ceiling.parquet").query("metric == 'direction_topk' and k == '20'")
    assert ceiling["value"].mean() > 0.8
    both = "import document_metrics as d; from trueshift.evaluation.registry import METRICS;"
    both += "from code_hash import Code; from pathlib import Path;"
    both += "assert set(Code(Path('.')).metrics()) == set(METRICS) and 'direction_topk' in d.table()"
    environment = {**os.environ, "PYTHONPATH": f"{guide.folder / 'src'}:{guide.folder / 'workflow'}"}
    subprocess.run([sys.executable, "-c", both], cwd=guide.folder, env=environment, check=True)


def test_add_a_reader_and_a_type_of_split(guide):
    (printed,) = guide.follow("add-a-reader.md", scripts=["make_npz.py"])
    assert "replaces the tables" not in printed, "the run has a name"
    table = pd.read_csv(guide.folder / "results/runs/npz/tables/topk_r2_wide.csv")
    assert table["model"].iloc[0] == "condition_mean" and table["r2_top20"].iloc[0] > 0.9, "few plates: no interval"
    split = pd.read_csv(guide.folder / "results/npz_screen/plates/third/split.csv")
    assert split["role"].eq("test").sum() == 160


def test_score_others(guide):
    guide.follow("score-others.md", scripts=["mine.py"])
    board = pd.read_csv(guide.folder / "results/runs/mine/tables/leaderboard.csv")
    board = board[board["metric"].isin(["r2_topk", "pearson_delta", "mse"]) & board["k"].isin(["20", np.nan])]
    board = board.pivot(index="metric", columns="model", values="value")
    assert set(board) == {"mine", "mean_shift", "no_change"}
    np.testing.assert_allclose(board["mine"], board["mean_shift"], rtol=1e-4)  # the page follows its definition
    log = guide.folder / "results/logs/simulated/new_combination/pairs/mine/external/seed0/adopt.log"
    assert "these are profiles" in log.read_text()


def test_the_ablation_of_the_readme(guide):
    """Word for word, on the default configuration."""
    (command,) = re.findall(r"^snakemake results/\S+/state/\S+ .*$", (ROOT / "README.md").read_text(), re.M)
    assert command in (ROOT / "config/README.md").read_text()
    guide.bash(command)
    scores = guide.scores(f"{FOLD}/state/S64/seed0").query("metric == 'r2_topk' and k == '20'")
    assert scores["value"].mean() > 0.3, "far from no effect"
    padding = (guide.folder / "results/logs/simulated/new_context/c1/pair_S64.log").read_text()
    assert "64 cells" in padding


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing
