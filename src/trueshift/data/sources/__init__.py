"""Sources: one file per input format, one way into the canonical form.

``load`` takes one entry of the datasets file. The settings it reads:

* ``kind``: counts, lognorm, profile or signature
* ``source``: ``format`` and what the format needs. A file is a path, or a mapping with ``path``, ``url``, ``sha256`` or
  ``md5`` and ``obtain``; ``{data}`` in a path is the data folder.
  h5ad: the file's keys themselves, ``layer``. mtx: ``matrix``, ``barcodes``, ``genes``, ``metadata`` (files),
  ``gene_column``, ``cell_column``. gct: the file's keys themselves. gctx, transigen: the file's keys themselves,
  ``genes`` (a file). table: ``expression``, ``metadata`` (files), ``cell_column``, ``transpose``. pickled: ``treated``,
  ``control`` (files). pdgrapher: ``files`` (cell line → file). simulate, simulate_profiles: the parameters of the
  function of that name.
* ``filter``: on source columns, before mapping; see :func:`trueshift.data.sources.columns.kept`
* ``columns``: where the canonical columns come from. ``perturbation`` (``from``, ``control``: label or labels,
  ``separator``: what joins combinations, default ``+``, null for none, ``extract``), ``context``, ``batch`` (default
  one batch ``all``), ``dose`` (default ``1``; ``unit``), ``modality`` (default ``unknown``): a column name,
  ``{from, extract}`` (first group of a regular expression) or ``{value}``; ``control_id``, ``size_factor``,
  ``smiles`` (of drugs), ``gene_symbol`` (a column of var), ``keep`` (a list of source columns to carry along)
* ``structures``: a file, table of perturbation and smiles, instead of or beside the column
* ``features``: name → ``simulated``, ``morgan`` or ``descriptors`` (computed from structures), or a file; see
  :func:`trueshift.data.sources.features.load_features`
* ``targets_measured``, ``preselected_genes``: booleans
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
from scipy import sparse

import trueshift
from trueshift.contract import ContractError
from trueshift.data.sources import gct, gctx, h5ad, mtx, pdgrapher, pickled, table, transigen
from trueshift.data.sources.canonical import canonicalise
from trueshift.data.sources.download import (
    FILE_KEYS,
    LocalFile,
    Log,
    algorithm_of,
    declared,
    ensure,
    located,
    verified,
)
from trueshift.data.sources.messages import check_keys, choices
from trueshift.data.sources.once import Once
from trueshift.data.sources.simulate import simulate
from trueshift.data.sources.simulate_profiles import simulate_profiles
from trueshift.values import DENSE

PAIR = ("treated", "control")
FORMATS = ("h5ad", "mtx", "table", "gct", "gctx", "transigen", "pickled", "pdgrapher", "simulate", "simulate_profiles")
SIMULATORS: dict[str, Callable[..., ad.AnnData]] = {"simulate": simulate, "simulate_profiles": simulate_profiles}


def load(
    name: str,
    settings: Mapping[str, Any],
    data_folder: str | Path,
    log: Log = print,
    values: Path | None = None,
) -> ad.AnnData:
    """Reads the source of dataset ``name`` (fetching it if need be) and returns it checked, in canonical form.

    Shape (cells, genes), X float32: CSR of cells, dense of profiles and signatures. A source of these that is read in
    parts (pickled) and large goes through the file ``values``, if given, and its values stay there
    (:mod:`trueshift.values`). Raises :class:`trueshift.contract.ContractError` on anything wrong with the settings, the
    files or their content.
    """
    source = dict(settings.get("source") or {})
    kind = source.pop("format", None)
    if kind not in FORMATS:
        raise ContractError(f"dataset {name}: source: format is {kind}; {choices(kind, FORMATS)}")
    where = f"dataset {name}, source"
    if kind in SIMULATORS:
        raw, provenance = _simulated(kind, source, where)
    elif kind == "h5ad":
        check_keys(source, (*FILE_KEYS, "layer"), where)
        file = ensure({key: value for key, value in source.items() if key != "layer"}, data_folder, log)
        raw, provenance = h5ad.read(file.path, source.get("layer")), _provenance([file])
    elif kind == "gct":
        file = ensure(source, data_folder, log)
        raw, provenance = gct.read(file.path), _provenance([file])
    elif kind in ("gctx", "transigen"):
        check_keys(source, (*FILE_KEYS, "genes"), where)
        file = ensure({key: value for key, value in source.items() if key != "genes"}, data_folder, log)
        genes = [ensure(source["genes"], data_folder, log)] if "genes" in source else []
        reader = gctx if kind == "gctx" else transigen
        raw = reader.read(file.path, genes[0].path if genes else None, log)
        provenance = _provenance([file, *genes])
    elif kind == "pdgrapher":
        check_keys(source, ("files",), where)
        if not isinstance(source.get("files"), Mapping):
            raise ContractError(f"{where}: files is not given; name a file for each cell line: {{A549: path}}")
        lines = {str(line): ensure(file, data_folder, log) for line, file in source["files"].items()}
        raw = pdgrapher.read({line: file.path for line, file in lines.items()}, log)
        provenance = _provenance(list(lines.values()))
    elif kind == "mtx":
        files = ("matrix", "barcodes", "genes", "metadata")
        raw, provenance = _several(mtx.read, files, source, where, data_folder, log)
    elif kind == "pickled":
        room = values if settings.get("kind") in DENSE else None
        raw, provenance = _pickled(source, where, data_folder, log, room)
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
    _check_given(files, source, where)
    local = {key: ensure(source[key], data_folder, log) for key in files}
    rest = {key: value for key, value in source.items() if key not in files}
    raw = read(**{key: file.path for key, file in local.items()}, **rest, log=log)
    return raw, _provenance(list(local.values()))


def _pickled(
    source: Mapping[str, Any], where: str, data_folder: str | Path, log: Log, values: Path | None
) -> tuple[ad.AnnData, dict[str, str]]:
    """Computes the checksums of the pair while it is read: the disk gives large files once."""
    check_keys(source, PAIR, where)
    _check_given(PAIR, source, where)
    entries = [source[key] for key in PAIR]
    for entry in entries:
        if not located(entry, data_folder).exists():
            ensure(entry, data_folder, log)
    treated, control = (Once(located(entry, data_folder), algorithm_of(entry)) for entry in entries)
    with treated, control:
        pairs = list(zip(entries, (treated, control), strict=True))
        try:
            raw = pickled.read(treated, control, log, values)
        except ContractError:
            for entry, file in pairs:
                if declared(entry):  # that it is the wrong file says more than what is wrong with it
                    verified(entry, data_folder, file.checksum())
            raise
        found = [verified(entry, data_folder, file.checksum()) for entry, file in pairs]
    return raw, _provenance(found)


def _check_given(files: Sequence[str], source: Mapping[str, Any], where: str) -> None:
    missing = [key for key in files if key not in source]
    if missing:
        raise ContractError(f"{where}: {', '.join(missing)} not given; this format needs {', '.join(files)}")


def _simulated(kind: str, parameters: Mapping[str, Any], where: str) -> tuple[ad.AnnData, dict[str, str]]:
    check_keys(parameters, inspect.signature(SIMULATORS[kind]).parameters, where)
    raw = SIMULATORS[kind](**parameters)
    arrays = (raw.X.data, raw.X.indices) if sparse.issparse(raw.X) else (raw.X,)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    return raw, {"source": kind, "checksum": f"sha256:{digest}", **_versions()}


def _provenance(files: list[LocalFile]) -> dict[str, str]:
    return {
        "source": " ".join(file.origin for file in files),
        "checksum": " ".join(file.checksum for file in files),
        **_versions(),
    }


def _versions() -> dict[str, str]:
    packages = {package: version(package) for package in ("anndata", "numpy", "pandas", "scipy")}
    return {"trueshift": trueshift.__version__, **packages}
