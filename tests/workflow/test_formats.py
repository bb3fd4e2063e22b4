"""Every source format from a file to a row of a table: one run, one small dataset a format, as a user would run it."""

import gzip
import json
import pickle
import shutil
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from project import ROOT, Project
from scipy import sparse
from scipy.io import mmwrite

sys.path.append(str(ROOT / "tests/library/data"))
import tenx_files
import torch_files

from trueshift.data.loading import FORMATS

# --- a screen of cells, written in every format that holds cells ---------------------------------------

GENES = [f"G{i}" for i in range(24)]
FEATURES = [(f"ENSG{i}", name, "Gene Expression") for i, name in enumerate(GENES)]
README = (ROOT / "config/README.md").read_text()


def example(name):
    """The entry that config/README.md shows for a format."""
    section = README.split(f"\n#### `{name}`\n")[1]
    return yaml.safe_load(section.split("```yaml\n")[1].split("```")[0])


def screen():
    """Two lines of 80 controls and two perturbations of 24 cells each: counts (cells, genes), and what is known."""
    rng = np.random.default_rng(0)
    base, effects = rng.uniform(2, 20, (2, len(GENES))), {"NT": 1.0, "A": 3.0, "B": 0.3}
    obs = pd.DataFrame(
        [(line, guide) for line in (0, 1) for guide, n in (("NT", 80), ("A", 24), ("B", 24)) for _ in range(n)],
        columns=["line", "guide"],
    )
    rates = base[obs["line"]].copy()
    rates[:, :6] *= obs["guide"].map(effects).to_numpy()[:, None]
    obs["line"] = obs["line"].map({0: "K562", 1: "RPE1"})
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))], name="cell")
    return rng.poisson(rates).astype(np.float32), obs


def of_cells(folder):
    """The entries of one screen, by name of the dataset, all files written."""
    counts, obs = screen()
    cells = obs.index.tolist()
    obs.to_csv(folder / "cells.csv")
    var = pd.DataFrame({"feature_types": "Gene Expression"}, index=GENES)
    ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "screen.h5ad")
    table = pd.DataFrame(counts.astype(int), index=obs.index, columns=GENES)
    table.to_csv(folder / "counts.csv")
    table.to_csv(folder / "semicolons.csv", sep=";")
    obs.to_csv(folder / "cells_semicolon.csv", sep=";")
    tenx_files.write_folder(folder / "filtered_feature_bc_matrix", counts, cells, FEATURES)
    for file in (folder / "filtered_feature_bc_matrix").iterdir():
        shutil.copy(file, folder)
    tenx_files.write_h5(folder / "tenx.h5", counts, cells, FEATURES)
    mmwrite(folder / "transposed.mtx", sparse.coo_matrix(counts.astype(int)))
    with gzip.open(folder / "r_cells.csv", "wt") as stream:
        stream.write('"","x"\n' + "".join(f'"{i}","{cell}"\n' for i, cell in enumerate(cells, 1)))
    (folder / "r_genes.csv").write_text('"id","name"\n' + "".join(f'"{i}","{name}"\n' for i, name, _ in FEATURES))
    (folder / "cells.tsv").write_text('"x"\n' + "".join(f'"{i}"\t"{cell}"\n' for i, cell in enumerate(cells, 1)))
    (folder / "names.txt").write_text("\n".join(GENES))
    plain = {"matrix": "{data}/transposed.mtx", "barcodes": "{data}/cells.tsv", "genes": "{data}/names.txt"}
    semicolons = {"expression": "{data}/semicolons.csv", "metadata": "{data}/cells_semicolon.csv", "separator": ";"}
    forms = {
        "mtx_csv": ("mtx", {"barcodes": "{data}/r_cells.csv", "genes": "{data}/r_genes.csv"}),
        "mtx_transposed": ("mtx", plain),
        "tenx_h5": ("tenx", {"path": "{data}/tenx.h5"}),
        "table_semicolons": ("table", semicolons),
    }
    entries = {name: example(name) for name in ("h5ad", "mtx", "tenx", "table")}
    for form, (name, settings) in forms.items():
        entries[form] = {**entries[name], "source": {**entries[name]["source"], **settings}}
    return entries


# --- a screen of drugs in profiles, written in every format that holds profiles -------------------------


def pairs():
    """Per line two drugs of twelve pairs: treated and control profiles (pairs, genes), and what is known of pairs."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame([(line, drug) for line in ("A549", "PC3") for drug in ("CCO", "CCN") for _ in range(12)])
    table.columns = ["cell_id", "pert_id"]
    table.insert(0, "sig_id", [f"{line}:{i}" for line in ("A549", "PC3") for i in range(24)])
    control = rng.normal(8, 0.3, (len(table), len(GENES)))
    effect = rng.normal(0, 1, len(GENES)) + np.where(table["pert_id"] == "CCO", 1, 0)[:, None] * np.eye(len(GENES))[3]
    treated = control + effect + rng.normal(0, 0.1, control.shape)
    return treated.astype(np.float32), control.astype(np.float32), table


def of_profiles(folder):
    """The entries of one screen in profiles, all files written."""
    treated, control, table = pairs()
    values, n = np.vstack([treated, control]), len(table)
    numbers = table.groupby("cell_id").cumcount() + 1
    names = (table["cell_id"] + ":control" + numbers.astype(str)).tolist()
    known = {
        "id": [*table["sig_id"], *names],
        "pert_id": [*table["pert_id"], *["DMSO"] * n],
        "cell_id": [*table["cell_id"]] * 2,
        "pert_idose": ["10 uM"] * n + ["-666"] * n,
        "partner": [*names, *["-666"] * n],
    }
    lines = ["#1.3", f"{len(GENES)}\t{2 * n}\t0\t{len(known) - 1}"]
    lines += ["\t".join([name, *column]) for name, column in known.items()]
    lines += ["\t".join([gene, *map(str, column)]) for gene, column in zip(GENES, values.T, strict=True)]
    (folder / "plate.gct").write_text("\n".join(lines) + "\n")
    with h5py.File(folder / "plate.gctx", "w") as file:
        file["/0/DATA/0/matrix"], file["/0/META/ROW/id"] = values, np.array(GENES, dtype="S")
        for name, column in known.items():
            file[f"/0/META/COL/{name}"] = np.array(column, dtype="S")
    for name in ("landmarks", "landmark_geneinfo"):
        pd.DataFrame({"gene": GENES}).to_csv(folder / f"{name}.csv", index=False)
    with h5py.File(folder / "processed_data.h5", "w") as file:
        file["x1"], file["x2"] = control, treated
        for name, column in (("sig", "sig_id"), ("cid", "cell_id"), ("canonical_smiles", "pert_id")):
            file[name] = np.array(table[column], dtype="S")
    table = table.assign(idx=range(n), pert_idose="10 uM", smiles=table["pert_id"])
    for name, profiles in (("treated", treated), ("control", control)):
        frame = pd.concat([table, pd.DataFrame(profiles, columns=GENES)], axis=1)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(frame, 5))
    for line, rows in table.groupby("cell_id").groups.items():
        samples = [
            torch_files.data(
                perturbagen_name=table["pert_id"][row],
                diseased=torch_files.plain(control[row]),
                treated=torch_files.plain(treated[row]),
                gene_symbols=GENES,
            )
            for row in rows
        ]
        torch_files.write(folder / f"data_backward_{line}.pt", samples)

    # Two of them hold no pairs by themselves, and two no doses; the others do.
    more = {"gct": {"control_id": "partner"}, "gctx": {"control_id": "partner"}}
    more |= {name: {"dose": {"value": "10 uM"}} for name in ("transigen", "pdgrapher")}
    entries = {name: example(name) for name in ("gct", "gctx", "transigen", "pickled", "pdgrapher")}
    return {name: {**entry, "columns": entry["columns"] | more.get(name, {})} for name, entry in entries.items()}


SIMULATORS = ["simulate", "simulate_profiles"]  # tests/mini.yaml and tests/lincs.yaml take them to their tables
FORMS = ["mtx_csv", "mtx_transposed", "tenx_h5", "table_semicolons"]  # other forms, run to what is true of their cells

# --- the run --------------------------------------------------------------------------------------------


TRUTH = "results/{}/new_line/one/truth_stats.parquet"
TABLE = "results/tables/topk_r2_wide.csv"


def held_out(context):
    return {"new_line": {"type": "zero_shot_context", "folds": {"one": context}}}


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The folder of files and the datasets that read them."""
    folder = tmp_path_factory.mktemp("data")
    more = {"qc": {"min_genes": 1, "min_cells": 1}, "genes": {"flavor": "all"}}
    datasets = {name: {**entry, "splits": held_out("RPE1"), **more} for name, entry in of_cells(folder).items()}
    datasets |= {name: {**entry, "splits": held_out("PC3"), **more} for name, entry in of_profiles(folder).items()}
    datasets |= {name: {**example(name), "splits": held_out("A549")} for name in SIMULATORS}
    return folder, datasets


@pytest.fixture(scope="module")
def project(configured, tmp_path_factory):
    """A project in which all datasets have been run to the table, with the floors alone."""
    folder, datasets = configured
    names = [name for name in datasets if name not in FORMS + SIMULATORS]
    config = {
        "data_folder": str(folder),
        "run": {"datasets": names, "splits": ["all"], "models": ["no_change"], "seeds": [0]},
        "evaluation": {"metrics": ["r2_topk"], "k": [20, "all"], "duplicate_halvings": 1},
        "datasets": json.loads(json.dumps(datasets)),
    }
    place = tmp_path_factory.mktemp("formats")
    (place / "formats.yaml").write_text(yaml.safe_dump(config))
    project = Project(place / "project", config=place / "formats.yaml")
    imported = [f"results/{name}/qc.json" for name in SIMULATORS]
    project.snakemake(TABLE, *map(TRUTH.format, FORMS), *imported, "--cores", "2")
    return project


@pytest.fixture(scope="module")
def scored(project):
    """The table."""
    return pd.read_csv(project.folder / TABLE).set_index(["dataset", "model"])


def test_every_format_has_a_dataset_here(configured):
    assert {entry["source"]["format"] for entry in configured[1].values()} == set(FORMATS)


@pytest.mark.parametrize("name", SIMULATORS)
def test_what_is_shown_of_a_simulator_is_imported(project, name):
    report = json.loads((project.folder / f"results/{name}/qc.json").read_text())
    assert report["cells"]["after"] > 0


def test_every_format_reaches_the_table(configured, scored):
    names = set(configured[1]) - {*FORMS, *SIMULATORS}
    assert set(scored.index) == {(name, model) for name in names for model in ("no_change", "mean_shift")}
    assert scored["r2_top20"].notna().all() and (scored["n_conditions"] > 0).all()
    no_change = scored.xs("no_change", level="model")["r2_top20"]
    assert no_change.tolist() == pytest.approx([0] * len(no_change), abs=1e-3)


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("h5ad", ["mtx", "tenx", "table"]),
        ("gct", ["gctx", "transigen", "pickled", "pdgrapher"]),
    ],
)
def test_one_screen_scores_the_same_in_whatever_format(scored, first, others):
    for name in others:
        pd.testing.assert_frame_equal(scored.loc[name], scored.loc[first], obj=name)


@pytest.mark.parametrize("form", FORMS)
def test_another_form_of_a_format_has_the_same_truth(project, form):
    of_form, of_h5ad = (pd.read_parquet(project.folder / TRUTH.format(name)) for name in (form, "h5ad"))
    pd.testing.assert_frame_equal(of_form, of_h5ad)


def test_the_effects_of_the_screens_are_found(scored):
    assert scored.loc[("gct", "mean_shift"), "r2_topall"] > 0.9, "both drugs do nearly the same in both lines"
    assert scored.loc[("h5ad", "mean_shift"), "r2_topall"] < 0.3, "one perturbation raises what the other lowers"


@pytest.mark.parametrize(("reader", "datasets"), [("gct", 1), ("mtx", 3), ("tenx", 2)])
def test_an_edited_reader_plans_only_the_datasets_that_use_it(project, scored, reader, datasets):
    with project.edited(f"src/trueshift/data/sources/{reader}.py", "def read(", "UNUSED = 1\n\n\ndef read("):
        jobs = project.due(TABLE, *map(TRUTH.format, FORMS))
    assert jobs["import_data"] == jobs["qc"] == jobs["split"] == datasets
    assert jobs["train"] == 2, "the two floors"
