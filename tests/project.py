"""A copy of the project to run workflows in, sharing the environments that are already built."""

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "rules", "workflow", "src", "config", "envs", "profiles", ".test")
MINI = ROOT / "tests/mini.yaml"


def default_configuration():
    """The project's configuration, as Snakemake merges it, with the defaults of its definition."""
    from code_hash import Code
    from schema import config_schema, fill_defaults

    merged = {}
    for name in ("config", "datasets", "models"):
        merged |= yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    fill_defaults(merged, config_schema(Code(ROOT)))
    return merged


class Project:
    """A working copy and the commands a user gives in it, with the driver of the environment ``driver``."""

    def __init__(self, folder, driver=ROOT / ".venv", config=MINI):
        self.folder, self.driver, self.config = folder, driver, config
        folder.mkdir(exist_ok=True)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)

    def command(self, *arguments, more=None):
        """The command line of snakemake with the small configuration and ``more``."""
        files = [self.config, *([more] if more else [])]
        fixed = ["--conda-prefix", ROOT / ".snakemake/conda", "--configfile", *files]
        return [self.driver / "bin/snakemake", *arguments, *fixed]

    def start(self, *arguments, more=None, **options):
        """Starts it; output and errors joined, lines as wide as they are."""
        environment = {**os.environ, "COLUMNS": "4000", **options.pop("env", {})}
        fixed = {"cwd": self.folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self.command(*arguments, more=more), env=environment, **fixed, **options)

    def snakemake(self, *arguments, check=True, more=None, **options):
        """Runs it to its end; returns the process."""
        process = self.start(*arguments, more=more, **options)
        output, _ = process.communicate()
        output = re.sub(r"[ ─]{40,}", " ", output)  # the logger pads lines
        done = subprocess.CompletedProcess(process.args, process.returncode, output)
        if check:
            assert done.returncode == 0, done.stdout
        return done

    def planned(self, *arguments, more=None):
        """How many jobs of each rule a dry run plans."""
        return self._counts(self.snakemake(*arguments, "-n", more=more).stdout)

    @staticmethod
    def _counts(shown):
        table = shown.split("Job stats")[1].split("Reasons")[0]
        rows = [line.split() for line in table.splitlines()]
        return {"_".join(row[:-1]): int(row[-1]) for row in rows if len(row) > 1 and row[-1].isdigit()}

    def due(self, *arguments):
        """How many jobs of each rule a dry run plans; none if nothing is to be done."""
        shown = self.snakemake(*arguments, "-n").stdout
        if "Nothing to be done" in shown:
            return {}
        return {rule: n for rule, n in self._counts(shown).items() if rule not in ("all", "total")}

    @contextmanager
    def edited(self, file, old=None, new=None):
        """A file with ``old`` replaced by ``new`` or, where there is none, with the content ``new``; then as it was."""
        path = self.folder / file
        original = path.read_text() if path.exists() else None
        assert (original is None) == (old is None)
        path.write_text(new if original is None else original.replace(old, new, 1))
        assert path.read_text() != original
        try:
            yield
        finally:
            path.unlink() if original is None else path.write_text(original)

    def summary(self):
        """One row per output file: what made it, from what, by which command, and whether it is due again."""
        shown = self.snakemake("--detailed-summary").stdout
        lines = shown[shown.index("output_file\t") :].splitlines()
        rows = [line.split("\t") for line in lines if "\t" in line]
        return pd.DataFrame(rows[1:], columns=rows[0])
