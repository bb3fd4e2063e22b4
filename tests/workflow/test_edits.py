"""What an edit of the code plans again on a finished project: the jobs that it concerns, and no others."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from project import ROOT

from code_hash import READERS, SPLITS, Code

LIBRARY = "src/trueshift"
# What follows from an edited metric: all that computes or reads metrics. Costs are not measured again for it.
OF_METRICS = {"ceiling", "score", "calibrate", "topk_r2", "calibration", "leaderboard", "topk_r2_results"}
OF_METRICS |= {f"plot_{name}" for name in ("topk_r2", "leaderboard", "agreement", "conditions", "cost", "two_orders")}


READER = "FILES = ()\n\n\ndef read():\n    return None\n"
SPLIT = 'ASKS = "seen"\nSETTINGS = {"k": 5}\n\n\ndef tested(cells, chosen, fold):\n    return cells.perturbed\n'
METRIC = (
    "from trueshift.evaluation.metric import ERROR, metric\n\n\n@metric(**ERROR, needs=(), formula='', source='')\n"
)
METRIC += "def nothing(pair):\n    return pair\n"
MODEL = "from trueshift.models.no_change import NoChange\n\n\nclass Mine(NoChange):\n    pass\n"


NEW = {
    f"{LIBRARY}/data/sources/mine.py": READER,
    f"{LIBRARY}/data/splits/mine.py": SPLIT,
    f"{LIBRARY}/evaluation/metrics/mine.py": METRIC,
    f"{LIBRARY}/models/mine.py": MODEL,
}
UNUSED = [
    (f"{LIBRARY}/data/sources/table.py", "def read(", "UNUSED = 1\n\n\ndef read("),
    (f"{LIBRARY}/data/splits/unseen_dose.py", "def tested(", "UNUSED = 1\n\n\ndef tested("),
    (
        f"{LIBRARY}/evaluation/metrics/systema.py",
        "def systema_pearson(",
        "def _u():\n    pass\n\n\ndef systema_pearson(",
    ),
    (f"{LIBRARY}/models/linear.py", "return self\n", "print()\n        return self\n"),
]
WORDS = [
    (f"{LIBRARY}/models/ridge_control.py", "    def fit", "    # a comment\n    def fit"),
    (f"{LIBRARY}/contract.py", '"""Reads JSON."""', '"""Reads JSON, in other words."""'),
]


@pytest.mark.parametrize(
    "edits",
    [[(file, None, content) for file, content in NEW.items()], UNUSED, WORDS],
    ids=["new files", "what is not used", "words"],
)
def test_edits_that_concern_no_job_plan_nothing(finished, edits):
    with ExitStack() as all_at_once:
        for file, old, new in edits:
            all_at_once.enter_context(finished.edited(file, old, new))
        assert finished.due() == {}


def test_an_edited_reader_plans_the_datasets_that_use_it(finished):
    with finished.edited(f"{LIBRARY}/data/sources/simulate.py", "ROWS = 4096", "ROWS = 4095"):
        jobs = finished.due()
    assert jobs["import_data"] == jobs["qc"] == 1
    assert jobs["train"] == len(list(finished.folder.glob("results/mini/*/*/*/*/*/model"))), "its whole dataset"


def test_an_edited_split_type_plans_its_splits(finished):
    file = f"{LIBRARY}/data/splits/unseen_combination.py"
    with finished.edited(file, "    pairs = sorted(", "    print()\n    pairs = sorted("):
        jobs = finished.due()
    assert not {"import_data", "qc", "normalize"} & set(jobs)
    assert jobs["split"] == jobs["partition"] == jobs["reference"] == 1
    trained = len(list(finished.folder.glob("results/mini/new_combination/*/*/*/*/model")))
    assert jobs["train"] == jobs["predict"] == jobs["score"] == trained


def test_an_edited_metric_trains_nothing_and_makes_no_table_that_does_not_read_metrics(finished):
    file = f"{LIBRARY}/evaluation/metrics/topk.py"
    with finished.edited(file, "    top = pair.top(k)", "    print()\n    top = pair.top(k)"):
        jobs = finished.due()
    assert set(jobs) == OF_METRICS
    runs = len(list(finished.folder.glob("results/mini/*/*/*/*/*/scores.parquet")))
    assert jobs["score"] == runs and jobs["ceiling"] == 2


def test_an_edited_model_trains_it_alone(finished):
    with finished.edited(f"{LIBRARY}/models/ridge_control.py", "return self\n", "print()\n        return self\n"):
        jobs = finished.due()
    assert jobs["train"] == jobs["predict"] == jobs["score"] == 2
    assert not {"import_data", "split", "reference", "ceiling", "leaks", "features", "conditions", "exclusions"} & set(
        jobs
    )


def test_an_edit_of_state_trains_state_alone():
    """What other networks share with it has a folder of its own."""
    code, models = Code(ROOT), f"{LIBRARY}/models"
    for file in code.modules(models).values():
        name = Path(file).stem
        assert name.startswith("state") or not [path for path in code.closure(file) if f"{models}/state" in path], file


def test_an_edit_of_qc_plans_what_follows_from_it(finished):
    with finished.edited(f"{LIBRARY}/data/qc.py", "def quality_control(", "UNUSED = 1\n\n\ndef quality_control("):
        jobs = finished.due()
    assert jobs["qc"] == jobs["normalize"] == 1
    assert jobs["train"] == len(list(finished.folder.glob("results/mini/*/*/*/*/*/model")))


def test_an_edit_of_normalisation_plans_what_follows_from_it(finished):
    with finished.edited(f"{LIBRARY}/data/normalize.py", "def normalize(", "UNUSED = 1\n\n\ndef normalize("):
        jobs, of_qc = finished.due(), finished.due("results/mini/qc.json")
    assert of_qc == {}, "qc is planned only to make qc.h5ad again, which is temporary"
    assert jobs["normalize"] == 1
    assert jobs["train"] == len(list(finished.folder.glob("results/mini/*/*/*/*/*/model")))


def test_an_edit_of_gene_selection_plans_what_follows_from_it(finished):
    with finished.edited(f"{LIBRARY}/data/genes.py", "def select_genes(", "UNUSED = 1\n\n\ndef select_genes("):
        jobs = finished.due()
    assert not {"import_data", "qc", "normalize", "split"} & set(jobs)
    assert jobs["select_genes"] == jobs["partition"] == len(list(finished.folder.glob("results/mini/*/*/genes.csv")))
    assert jobs["train"] == len(list(finished.folder.glob("results/mini/*/*/*/*/*/model")))


def test_an_edited_figure_is_drawn_again(finished):
    with finished.edited(f"{LIBRARY}/report/heatmap.py", "def ", "UNUSED = 1\n\n\ndef "):
        jobs = finished.due()
    assert set(jobs) <= {rule for rule in OF_METRICS if rule.startswith("plot_")} and jobs["plot_leaderboard"] == 1


@pytest.mark.parametrize("folder", [READERS, SPLITS])
def test_no_reader_and_no_type_of_split_imports_another(folder):
    """An edit of one would plan what uses the other."""
    code = Code(ROOT)
    own = code.modules(folder)
    for file in own.values():
        assert code.closure(file) & set(own.values()) == {file}


def test_modules_are_looked_up_by_name_in_four_places_alone():
    """A module that is imported by a computed name is in no hash but where the plan adds it."""
    found = {
        str(file.relative_to(ROOT / LIBRARY))
        for file in (ROOT / LIBRARY).rglob("*.py")
        if re.search(r"importlib\.import_module|__import__\(", file.read_text())
    }
    assert found == {"data/loading.py", "data/split_settings.py", "evaluation/registry.py", "models/base.py"}
