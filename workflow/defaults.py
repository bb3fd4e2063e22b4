"""Settings that the user leaves out: they come from the files below config/."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

NAMES = ("config.yaml", "datasets.yaml", "models.yaml")


def fill(config: dict[str, Any], folders: Iterable[Path]) -> list[Path]:
    """Adds to ``config`` what the files of these folders say and it does not; returns the files, in the order read.

    A later file wins over an earlier one, and what ``config`` holds wins over all. As Snakemake merges: mappings are
    merged, anything else is replaced, lists too. A folder that is named twice is read once, a file that is not there
    is left out.
    """
    given = copy.deepcopy(config)
    places = {folder.resolve(): folder for folder in folders}
    files = [folder / name for folder in places.values() for name in NAMES if (folder / name).exists()]
    for file in files:
        update_config(config, load_configfile(file))
    update_config(config, given)
    return files
