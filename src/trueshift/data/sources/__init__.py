"""Sources: one file per input format, one way into the canonical form.

``load`` takes one entry of the datasets file. The settings it reads:

* ``kind``: counts, lognorm, profile or signature
* ``source``: ``format`` and what the format needs. A file is a path, or a mapping with ``path``, ``url``, ``sha256`` or
  ``md5`` and ``obtain``; ``{data}`` in a path is the data folder.
  h5ad: the file's keys themselves, ``layer``. mtx: ``matrix``, ``barcodes``, ``genes``, ``metadata`` (files),
  ``gene_column``, ``cell_column``. gct: the file's keys themselves. transigen: the file's keys themselves, ``genes`` (a
  file). table: ``expression``, ``metadata`` (files), ``cell_column``, ``transpose``. pickled: ``treated``, ``control``
  (files). simulate: the parameters of :func:`trueshift.data.sources.simulate.simulate`.
* ``filter``: on source columns, before mapping; see :func:`trueshift.data.sources.columns.kept`
* ``columns``: where the canonical columns come from. ``perturbation`` (``from``, ``control``: label or labels,
  ``separator``: what joins combinations, default ``+``, null for none, ``extract``), ``context``, ``batch`` (default
  one batch ``all``), ``dose`` (default ``1``; ``unit``), ``modality`` (default ``unknown``): a column name,
  ``{from, extract}`` (first group of a regular expression) or ``{value}``; ``control_id``, ``size_factor``,
  ``gene_symbol`` (a column of var), ``keep`` (a list of source columns to carry along)
* ``features``: name → ``simulated`` or a file; ``targets_measured``, ``preselected_genes``: booleans
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad

import trueshift
from trueshift.contract import ContractError
from trueshift.data.sources import gct, h5ad, mtx, pickled, table, transigen
from trueshift.data.sources.canonical import canonicalise
from trueshift.data.sources.download import FILE_KEYS, LocalFile, Log, ensure
from trueshift.data.sources.messages import check_keys, choices
from trueshift.data.sources.simulate import simulate

FORMATS = ("h5ad", "mtx", "table", "gct", "transigen", "pickled", "simulate")


def load(name: str, settings: Mapping[str, Any], data_folder: str | Path, log: Log = print) -> ad.AnnData:
    """Reads the source of dataset ``name`` (fetching it if need be) and returns it checked, in canonical form.

    Shape (cells, genes), X CSR float32. Raises :class:`trueshift.contract.ContractError` on anything wrong with
    the settings, the files or their content.
    """
    source = dict(settings.get("source") or {})
    kind = source.pop("format", None)
    if kind not in FORMATS:
        raise ContractError(f"dataset {name}: source: format is {kind}; {choices(kind, FORMATS)}")
    where = f"dataset {name}, source"
    if kind == "simulate":
        raw, provenance = _simulated(source, where)
    elif kind == "h5ad":
        check_keys(source, (*FILE_KEYS, "layer"), where)
        file = ensure({key: value for key, value in source.items() if key != "layer"}, data_folder, log)
        raw, provenance = h5ad.read(file.path, source.get("layer")), _provenance([file])
    elif kind == "gct":
        file = ensure(source, data_folder, log)
        raw, provenance = gct.read(file.path), _provenance([file])
    elif kind == "transigen":
        check_keys(source, (*FILE_KEYS, "genes"), where)
        file = ensure({key: value for key, value in source.items() if key != "genes"}, data_folder, log)
        genes = [ensure(source["genes"], data_folder, log)] if "genes" in source else []
        raw = transigen.read(file.path, genes[0].path if genes else None, log)
        provenance = _provenance([file, *genes])
    elif kind == "mtx":
        files = ("matrix", "barcodes", "genes", "metadata")
        raw, provenance = _several(mtx.read, files, source, where, data_folder, log)
    elif kind == "pickled":
        raw, provenance = _several(pickled.read, ("treated", "control"), source, where, data_folder, log)
    else:
        raw, provenance = _several(table.read, ("expression", "metadata"), source, where, data_folder, log)
    return canonicalise(raw, name, settings, provenance, data_folder, log)


def _several(
    read: Callable[..., ad.AnnData],
    files: Sequence[str],
    source: Mapping[str, Any],
    where: str,
    data_folder: str | Path,
    log: Log,
) -> tuple[ad.AnnData, dict[str, str]]:
    """Reads a source of several files; its other settings are the reader's own parameters."""
    check_keys(source, [key for key in inspect.signature(read).parameters if key != "log"], where)
    missing = [key for key in files if key not in source]
    if missing:
        raise ContractError(f"{where}: {', '.join(missing)} not given; this format needs {', '.join(files)}")
    local = {key: ensure(source[key], data_folder, log) for key in files}
    rest = {key: value for key, value in source.items() if key not in files}
    raw = read(**{key: file.path for key, file in local.items()}, **rest, log=log)
    return raw, _provenance(list(local.values()))


def _simulated(parameters: Mapping[str, Any], where: str) -> tuple[ad.AnnData, dict[str, str]]:
    check_keys(parameters, inspect.signature(simulate).parameters, where)
    raw = simulate(**parameters)
    digest = hashlib.sha256(raw.X.data.tobytes() + raw.X.indices.tobytes()).hexdigest()
    return raw, {"source": "simulate", "checksum": f"sha256:{digest}", **_versions()}


def _provenance(files: list[LocalFile]) -> dict[str, str]:
    return {
        "source": " ".join(file.origin for file in files),
        "checksum": " ".join(file.checksum for file in files),
        **_versions(),
    }


def _versions() -> dict[str, str]:
    packages = {package: version(package) for package in ("anndata", "numpy", "pandas", "scipy")}
    return {"trueshift": trueshift.__version__, **packages}
