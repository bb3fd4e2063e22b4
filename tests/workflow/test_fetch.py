"""A dataset with addresses: fetched once, by a job of its own, and computed once."""

import hashlib
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from project import Project
from scipy import sparse

QC = "results/screen/qc.json"
LABELS = ["control", "one", "two", "three"]


class Files(SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked."""

    def __init__(self, *arguments):
        super().__init__(*arguments, directory=self.folder)

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A server with a screen and a table of features: its address, the folder, and what was asked of it."""
    folder = tmp_path_factory.mktemp("remote")
    obs = pd.DataFrame(
        [(c, label) for c in ("a", "b") for label in LABELS for _ in range(12)], columns=["cell", "drug"]
    )
    obs.index = [f"cell{i}" for i in range(len(obs))]
    counts = np.random.default_rng(0).poisson(2, (len(obs), 30)).astype(np.float32)
    var = pd.DataFrame(index=[f"g{i}" for i in range(30)])
    ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "screen.h5ad")
    pd.DataFrame({"drug": LABELS[1:], "x": [1.0, 2.0, 3.0]}).to_csv(folder / "far.csv", index=False)
    handler = type("Handler", (Files,), {"folder": str(folder), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def with_address(remote, name, **more):
    url, folder, _ = remote
    facts = {"path": f"{{data}}/{name}", "url": f"{url}/{name}"}
    return facts | {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()} | more


@pytest.fixture(scope="module")
def project(remote, tmp_path_factory):
    """A project, and where its data go."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.data = project.folder / "mine"
    project.data.mkdir()
    pd.DataFrame({"drug": LABELS[1:], "x": [1.0, 2.0, 3.0]}).to_csv(project.data / "near.csv", index=False)
    configure(project, remote)
    return project


def configure(project, remote, **more):
    """Writes the configuration; ``more`` is added to the dataset's entry."""
    entry = {
        "kind": "counts",
        "source": {"format": "h5ad", **with_address(remote, "screen.h5ad")},
        "columns": {"perturbation": {"from": "drug", "control": "control"}, "context": "cell"},
        "features": {"far": with_address(remote, "far.csv", key="name"), "near": "{data}/near.csv"},
        "qc": {"min_genes": 1, "min_cells": 1},
        "splits": {"unseen": {"type": "unseen_perturbation", "folds": {"one": ["one"]}}},
    }
    file = project.folder / "screen.yaml"
    run = {"datasets": ["screen"], "models": ["mean_shift"]}
    file.write_text(json.dumps({"data_folder": "mine", "run": run, "datasets": {"screen": entry | more}}))
    project.config = file


def due(project, *arguments):
    """What a plan of qc.json has to do, without the sum."""
    return project.due(QC, *arguments)


def test_a_dataset_with_addresses_is_fetched_once_and_computed_once(project, remote):
    url, folder, asked = remote
    assert due(project) == {"fetch": 1, "import_data": 1, "qc": 1}
    project.snakemake(QC, "--cores", "2")
    assert asked == ["/screen.h5ad", "/far.csv"]
    assert json.loads((project.folder / "results/screen/fetched.json").read_text()) == [
        {"path": f"mine/{file.name}", "url": f"{url}/{file.name}"}
        | {"checksum": f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}", "bytes": file.stat().st_size}
        for file in (folder / "screen.h5ad", folder / "far.csv")
    ]
    assert due(project) == {}
    assert f"fetched {url}/screen.h5ad" in (project.folder / "results/logs/screen/fetch.log").read_text()
    assert (project.folder / "results/benchmarks/screen/fetch.tsv").exists()


def test_the_plan_does_not_look_at_what_was_fetched_but_at_what_was_not(project, remote):
    project.snakemake(QC, "--cores", "2")
    (project.data / "screen.h5ad").touch()
    assert due(project) == {}
    (project.data / "screen.h5ad").unlink()
    assert due(project) == {}
    with project.edited("mine/near.csv", "3.0", "4.0"):
        assert due(project) == {"import_data": 1, "qc": 1}
    project.snakemake(QC, "--cores", "2")


def test_addresses_and_checksums_are_settings(project, remote):
    project.snakemake(QC, "--cores", "2")
    everything = {"fetch": 1, "import_data": 1, "qc": 1}
    source = {"format": "h5ad", **with_address(remote, "screen.h5ad")}
    for change in ({"url": f"{remote[0]}/other.h5ad"}, {"sha256": "0" * 64}, {"path": "{data}/other.h5ad"}):
        configure(project, remote, source=source | change)
        assert due(project) == everything
    configure(project, remote, columns={"perturbation": {"from": "drug", "control": "three"}, "context": "cell"})
    assert due(project) == {"import_data": 1, "qc": 1}
    configure(project, remote)
    assert due(project) == {}


def test_a_file_that_went_is_named_with_a_remedy_that_works(project, remote):
    project.snakemake(QC, "--cores", "2")
    (project.data / "screen.h5ad").unlink(missing_ok=True)
    configure(project, remote, filter={"drug": {"not_in": ["two"]}})
    del remote[2][:]
    refused = project.snakemake(QC, "--cores", "2", check=False)
    assert refused.returncode != 0
    for part in ("mine/screen.h5ad", f"{remote[0]}/screen.h5ad", "--forcerun fetch"):
        assert part in refused.stdout
    assert remote[2] == []  # an import uses no network
    project.snakemake(QC, "--cores", "2", "--forcerun", "fetch", "--until", "fetch")
    assert remote[2] == ["/screen.h5ad"]
    assert due(project) == {"import_data": 1, "qc": 1}
    project.snakemake(QC, "--cores", "2")
    project.snakemake(QC, "--cores", "2", "--forcerun", "fetch", "--until", "fetch")
    assert due(project) == {}  # the same files were found: nothing is made again


def test_it_can_be_fetched_alone(project, remote):
    shutil.rmtree(project.folder / "results/screen", ignore_errors=True)
    for name in ("screen.h5ad", "far.csv"):
        (project.data / name).unlink(missing_ok=True)
    del remote[2][:]
    assert project.planned("--until", "fetch") == {"fetch": 1, "total": 1}
    project.snakemake("--cores", "1", "--until", "fetch")
    assert remote[2] == ["/screen.h5ad", "/far.csv"]
    assert "fetch" not in project.due()


def test_a_wrong_file_stops_the_run_and_is_named(project, remote):
    (project.data / "far.csv").write_text("another")
    refused = project.snakemake(QC, "--cores", "2", "--forcerun", "fetch", "--until", "fetch", check=False)
    assert refused.returncode != 0 and "mine/far.csv: checksum is" in refused.stdout
    (project.data / "far.csv").unlink()


def test_there_is_nothing_to_fetch_for_a_dataset_without_addresses(project):
    refused = project.snakemake("results/simulated/fetched.json", "-n", check=False)
    assert refused.returncode != 0
    assert "dataset simulated has no file with a url" in refused.stdout
