"""A rule's process imports nothing from the driver's environment: shown from inside a rule, for every environment."""

import json
import os
import subprocess

import pytest
from project import ROOT, Project

ENVIRONMENTS = ("data", "baselines", "torch", "scvi", "evaluation")
STACK = {  # what the rules of an environment live on
    "data": ["anndata", "scanpy", "skmisc", "pyarrow", "matplotlib"],
    "baselines": ["anndata", "scipy", "wandb"],
    "torch": ["torch", "anndata", "wandb"],
    "scvi": ["scvi", "biolord", "wandb"],
    "evaluation": ["anndata", "scipy", "pyarrow", "matplotlib"],
}
PROBE = """
import importlib, json, sys
for name in sys.argv[2].split(","):
    importlib.import_module(name)
import trueshift.contract
driver = [name for name in ("snakemake", "pulp", "yte", "uv") if importlib.util.find_spec(name)]
files = [str(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
seen = {"prefix": sys.prefix, "base": sys.base_prefix, "path": sys.path, "files": files, "driver": driver}
json.dump(seen, open(sys.argv[1], "w"))
"""
SNAKEFILE = """
include: "rules/common.smk"

rule all:
    input: expand("probe/{env}.json", env=%r)

def stack(wildcards):
    return ",".join(%r[wildcards.env])

rule probe:
    output: "probe/{env}.json"
    conda: "envs/{env}.yaml"
    params: stack=stack
    shell: "python -I $TRUESHIFT/workflow/run.py probe {output:q} {params.stack:q}"
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("isolation"))
    (project.folder / "workflow/scripts/probe.py").write_text(PROBE)
    (project.folder / "Snakefile").write_text(SNAKEFILE % (ENVIRONMENTS, STACK))
    decoy = project.folder / "decoy"
    decoy.mkdir()
    (decoy / "anndata.py").write_text("raise ImportError('the decoy on PYTHONPATH was imported')")
    command = [ROOT / ".venv/bin/snakemake", "--cores", "2", "--conda-prefix", ROOT / ".snakemake/conda"]
    activated = {
        **os.environ,
        "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(ROOT / ".venv"),
        "PYTHONPATH": str(decoy),
    }
    subprocess.run(command, cwd=project.folder, env=activated, check=True)
    return project.folder / "probe"


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_rule_process_sees_only_its_environment(probed, env):
    seen = json.loads((probed / f"{env}.json").read_text())
    assert not seen["driver"], "packages of the driver can be imported"
    own = (seen["prefix"], seen["base"], str(probed.parent / "src"), str(probed.parent / "workflow/scripts/probe.py"))
    foreign = [path for path in [*seen["path"], *seen["files"]] if path and not path.startswith(own)]
    foreign = [path for path in foreign if "/lib/python" in path or "site-packages" in path or path.startswith("/")]
    assert not foreign
    assert str(ROOT / ".venv") not in "".join([*seen["path"], *seen["files"]])
    third_party = [path for path in seen["files"] if "site-packages" in path]
    assert third_party
    assert all(path.startswith(seen["prefix"]) for path in third_party)
