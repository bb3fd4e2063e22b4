"""One way into the canonical form: reads the source of a dataset by the module that its format names.

A format is a module of :mod:`trueshift.data.sources`, found by its name alone: a new one is a new file and no other
change. It has

* ``read``: a function of the settings of ``source`` and, if it names them, of ``log``, ``values`` (see :func:`load`)
  and ``scratch`` (a file that it may write meanwhile, or None). It returns AnnData, shape (cells, genes), as the source
  has it. Settings without default are required.
* ``FILES``: which of its settings are files. ``read`` is given paths, once the files are there and checked. A file is
  written as a path, or as a mapping with ``path``, ``url``, ``sha256`` or ``md5``, and ``obtain``
  (:mod:`trueshift.data.local_files`); ``{data}`` in a path is the data folder. The one called ``path`` is written among
  the settings of ``source`` themselves, and the one called ``files`` is a mapping of files by name.
* ``FOLDERS``: which of its files may be a folder of files instead; none if it is not there.
* ``COLUMNS``, for a source that is in canonical columns already: what ``columns`` is where the user does not say.
"""

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata as ad
from scipy import sparse

import trueshift
from trueshift.contract import ContractError
from trueshift.data import sources
from trueshift.data.canonical.canonicalise import canonicalise
from trueshift.data.local_files import FILE_KEYS, LocalFile, Log, ensure
from trueshift.data.options import check_keys, choices
from trueshift.kinds import is_dense

FORMATS = tuple(module.name for module in pkgutil.iter_modules(sources.__path__))
GIVEN = ("log", "values", "scratch")  # what a reader gets beside its settings


def load(
    name: str,
    settings: Mapping[str, Any],
    data_folder: str | Path,
    log: Log = print,
    values: Path | None = None,
) -> ad.AnnData:
    """Reads the source of dataset ``name``, whose files are there, and returns it checked, in canonical form.

    ``settings`` is the dataset's entry: ``kind``; ``source`` with ``format`` and the settings of that; ``filter``,
    ``columns``, ``structures``, ``features``, ``targets_measured`` and ``preselected_genes``, which
    :func:`trueshift.data.canonical.canonicalise.canonicalise` reads.

    Shape (cells, genes), X float32: CSR of cells, dense of profiles and signatures. A large source of these that is
    read in parts (pickled) goes through the file ``values``, if given, and its values stay there
    (:mod:`trueshift.values`). Raises :class:`trueshift.contract.ContractError` on anything wrong with the settings, the
    files or their content.
    """
    source = dict(settings.get("source") or {})
    kind = source.pop("format", None)
    if kind not in FORMATS:  # looked up before it is imported: what a user writes is never a path to code
        raise ContractError(f"dataset {name}: source: format is {kind}; {choices(kind, FORMATS)}")
    reader = importlib.import_module(f"trueshift.data.sources.{kind}")
    files, rest = _files(reader, source, f"dataset {name}, source", data_folder)
    takes = inspect.signature(reader.read).parameters
    given = {"log": log, "values": values if is_dense(settings.get("kind")) else None, "scratch": values}
    raw = reader.read(**{key: _paths(file) for key, file in files.items()}, **rest, **_taken(given, takes))
    used = [file for entry in files.values() for file in (entry.values() if isinstance(entry, dict) else [entry])]
    provenance = {
        "source": " ".join(file.origin for file in used) or kind,
        "checksum": " ".join(file.checksum for file in used) or _digest(raw),
        "trueshift": trueshift.__version__,
        **{package: version(package) for package in ("anndata", "numpy", "pandas", "scipy")},
    }
    columns = {**getattr(reader, "COLUMNS", {}), **(settings.get("columns") or {})}
    return canonicalise(raw, name, {**settings, "columns": columns}, provenance, data_folder, log)


def _files(
    reader: ModuleType, source: dict[str, Any], where: str, data_folder: str | Path
) -> tuple[dict[str, LocalFile | dict[str, LocalFile]], dict[str, Any]]:
    """The files that a source names, there and checked, and its other settings."""
    takes = {name: spec for name, spec in inspect.signature(reader.read).parameters.items() if name not in GIVEN}
    own = FILE_KEYS if "path" in reader.FILES else ()
    check_keys(source, [*own, *(name for name in takes if name not in own)], where)
    needed = [name for name, spec in takes.items() if spec.default is spec.empty]
    missing = [name for name in needed if name not in source]
    if missing:
        raise ContractError(f"{where}: {', '.join(missing)} not given; this format needs {', '.join(needed)}")
    entries = {name: source[name] for name in reader.FILES if name in source}
    if own:
        entries["path"] = _taken(source, own)
    files: dict[str, LocalFile | dict[str, LocalFile]] = {}
    for name, entry in entries.items():
        if name == "files":
            if not isinstance(entry, Mapping):
                raise ContractError(f"{where}: files names no files; write a name and a path for each: {{A549: path}}")
            files[name] = {str(label): ensure(file, data_folder) for label, file in entry.items()}
        else:
            files[name] = ensure(entry, data_folder, folder=name in getattr(reader, "FOLDERS", ()))
    return files, {name: value for name, value in source.items() if name not in entries and name not in own}


def _taken(settings: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in names}


def _paths(file: LocalFile | dict[str, LocalFile]) -> Path | dict[str, Path]:
    return {name: one.path for name, one in file.items()} if isinstance(file, dict) else file.path


def _digest(raw: ad.AnnData) -> str:
    """A checksum of values that come from no file."""
    arrays = (raw.X.data, raw.X.indices) if sparse.issparse(raw.X) else (raw.X,)
    return f"sha256:{hashlib.sha256(b''.join(array.tobytes() for array in arrays)).hexdigest()}"
