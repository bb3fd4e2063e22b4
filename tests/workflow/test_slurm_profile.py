"""What the SLURM profile submits together: every rule is in a group, or is submitted on its own for a reason."""

import re

import yaml
from project import ROOT

ALONE = {
    "fetch": "not submitted: it runs where Snakemake does, for nodes may have no network",
    "import_data": "one per dataset, as large as its source",
    "qc": "one per dataset, as large as its source",
    "normalize": "one per dataset, as large as its source",
    "train": "in a shared submission another job's failure would discard the trained model",
    "scatter": "asked for by itself",
    "export": "asked for by itself",
}


def test_every_rule_is_in_a_group_or_alone_for_a_reason():
    rules = {name for file in ROOT.glob("rules/*.smk") for name in re.findall(r"^rule (\w+):", file.read_text(), re.M)}
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    grouped = [entry.split("=")[0] for entry in profile["groups"]]
    assert sorted([*grouped, *ALONE]) == sorted(rules)


def test_only_a_download_runs_on_the_login_node():
    text = "".join(file.read_text() for file in ROOT.glob("rules/*.smk"))
    assert re.findall(r"^localrules:\n((?: .*\n)+)", text, re.M) == ["    fetch,\n"]


def test_every_rule_is_measured_where_its_log_is():
    for file in ROOT.glob("rules/*.smk"):
        for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", file.read_text(), re.M | re.S):
            log, benchmark = (re.search(rf"^    {what}:\n\s+(\S+?),?$", body, re.M)[1] for what in ("log", "benchmark"))
            expected = log.replace("PLAN.log(", "PLAN.benchmark(")
            expected = expected.replace("results/logs/", "results/benchmarks/").replace(".log", ".tsv")
            assert benchmark == expected, name
