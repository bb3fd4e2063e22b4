# Where the workflow lies: by that its Python and the scripts of its rules are found
import io
import os
import sys
import tarfile
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")


def root_of(rules):
    """Where the workflow lies. Of one that Snakemake reads out of a git repository the commit is unpacked, once."""
    if not hasattr(rules, "ref"):
        return Path(rules.path).parent
    import git

    hosted = hasattr(rules, "hosted_repo")
    clone = rules.hosted_repo.repo if hosted else git.Repo(rules.repo_path)
    commit = clone.commit(rules.ref).hexsha
    place = Path(".snakemake/trueshift", commit).absolute()
    if not place.exists():
        part = place.with_name(f".{commit}.{os.getpid()}")
        archive = io.BytesIO()
        clone.archive(archive, commit)
        archive.seek(0)
        tarfile.open(fileobj=archive).extractall(part, filter="data")
        part.replace(place)
    return place / Path(rules.path).parent


ROOT = root_of(workflow.current_basedir)
sys.path.insert(0, str(ROOT / "workflow"))
