"""How faults are made: copies of a finished project to break, processes to find and kill, disks to fill."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from project import Project

FAULTS = Path(__file__).with_name("faults.yaml")
FOLD = "results/mini/new_context/one"
SLOW = f"{FOLD}/state/slow/seed0"
RUN = ("--cores", "2", "--resources", "gpu=2", "--notemp")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="NEEDS ROOT: mounts file systems")


class Faulty(Project):
    """A project that always runs the configuration of these tests; ``of`` is the finished one it is a copy of."""

    def __init__(self, folder, of=None):
        if of is None:
            super().__init__(folder)
        else:
            self.folder, self.driver, self.config = folder, of.driver, of.config
            shutil.copytree(of.folder, folder, symlinks=True)  # with the times, by which Snakemake goes

    def command(self, *arguments, more=FAULTS):
        return super().command(*arguments, more=more or FAULTS)

    def run(self, *targets, **options):
        """Makes the targets."""
        return self.snakemake(*targets, *RUN, **options)

    def scores(self, chain=SLOW):
        return pd.read_parquet(self.folder / chain / "scores.parquet")

    def remove(self, *names):
        """Deletes artefacts and their checksums, as a user would."""
        for name in names:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            path.with_name(f".{path.name}.crc32").unlink(missing_ok=True)

    def times(self, below="results"):
        """When each file was last changed; not of folders, logs and benchmarks: every start of a job touches them."""
        files = [path for path in (self.folder / below).rglob("*") if path.is_file()]
        files = [path for path in files if not {"logs", "benchmarks"} & set(path.parts)]
        return {str(path.relative_to(self.folder)): path.stat().st_mtime_ns for path in files}

    def jobs(self, script):
        """The running processes of a script in this project."""
        found = []
        for process in psutil.process_iter():
            try:
                words, place = process.cmdline(), process.cwd()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if place == str(self.folder) and words[2:4] == [f"{self.folder}/workflow/run.py", script]:
                found.append(process)
        return found


def wait_for(true, what, seconds=60):
    """Waits until a condition holds, and returns what it gave."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return found


def partials(project):
    """What a writer that did not finish left behind."""
    return sorted(str(path.relative_to(project.folder)) for path in (project.folder / "results").rglob("*.partial*"))


def assert_same_scores(left, right):
    pd.testing.assert_frame_equal(left, right, check_exact=True)


@contextmanager
def mounted(place, *options):
    """A mount at a folder, gone in the end."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def resize(place, free):
    """Sets the size of a tmpfs to what is used plus ``free`` bytes, in whole pages."""
    used = shutil.disk_usage(place).used
    subprocess.run(["mount", "-o", f"remount,size={used + free}", place], check=True)
