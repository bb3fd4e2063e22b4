"""Source format ``h5ad``: an AnnData file, plain or gzipped, its values in X or in a named layer.

An entry::

    kind: counts
    source: {format: h5ad, path: "{data}/screen.h5ad"}
    columns:
      perturbation: {from: guide, control: NT}
      context: line
"""

import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import h5py
from anndata._io.specs.registry import IORegistryError  # the class has no public name

from trueshift.contract import ContractError, read_h5ad
from trueshift.data.file_kinds import is_tenx
from trueshift.data.frames import GZIP
from trueshift.data.options import choices

FILES = ("path",)


def read(path: str | Path, layer: str | None = None, scratch: Path | None = None) -> ad.AnnData:
    """Reads cells × genes with the values of ``layer`` in X, obs and var of the source.

    - ``path``: The file; {data} is the data folder.
    - ``layer``: The layer that holds the values, or raw for those of .raw; X by default.

    A gzipped file is unpacked into the file ``scratch``, by default into a temporary one. Raises
    :class:`ContractError` if the file cannot be read or holds no such layer.
    """
    with _plain(Path(path), scratch) as file:
        adata = _read(file, path)
    if layer is None:
        if adata.X is None:
            raise ContractError(f"{path}: no X; name the layer with the values (source: layer); {_layers(adata)}")
        return ad.AnnData(adata.X, obs=adata.obs, var=adata.var)
    if layer == "raw" and adata.raw is not None:
        return ad.AnnData(adata.raw.X, obs=adata.obs, var=adata.raw.var)
    if layer not in adata.layers:
        raise ContractError(f"{path}: no layer '{layer}'; {_layers(adata, layer)}")
    return ad.AnnData(adata.layers[layer], obs=adata.obs, var=adata.var)


def _layers(adata: ad.AnnData, wanted: str = "") -> str:
    return choices(wanted, [*adata.layers, *(["raw"] if adata.raw is not None else [])])


@contextmanager
def _plain(path: Path, scratch: Path | None) -> Iterator[Path]:
    """The file itself or, if its first bytes say that it is gzipped, what is in it."""
    with path.open("rb") as start:
        zipped = start.read(len(GZIP)) == GZIP
    if not zipped:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        place = scratch or Path(folder) / "unpacked.h5ad"
        try:
            with gzip.open(path) as packed, place.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ContractError(f"{path}: cannot be unpacked ({error}); copy or fetch it again") from error
        yield place


def _read(file: Path, path: str | Path) -> ad.AnnData:
    """Reads a file; errors name ``path``, which it was unpacked from or is."""
    try:
        with h5py.File(file, "r") as content:
            if "obs" not in content and is_tenx(content):
                raise ContractError(f"{path}: this is a 10x HDF5 matrix of Cell Ranger, not an h5ad; use format: tenx")
    except OSError as error:
        what = (
            "is shorter than its own table of contents says" if "truncated" in str(error) else f"is no h5ad ({error})"
        )
        raise ContractError(f"{path}: {what}; copy or fetch it again") from error
    try:
        return read_h5ad(file)
    except ContractError as error:
        if error.__cause__ is None:  # not what the stage that wrote it has written
            raise
        raise ContractError(f"{path}: cannot be read as h5ad ({error.__cause__}); copy or fetch it again") from error
    except IORegistryError as error:
        encoding = re.search(r"encoding_type='([^']*)'", str(error))
        place = re.search(r"key '([^']*)' .* from /?(\w*)", " ".join(getattr(error, "__notes__", [])))
        raise ContractError(
            f"{path}: {f'{place[2]} {place[1]!r}'.strip() if place else 'a part'} is stored as "
            f"{encoding[1] if encoding else 'an unknown kind'}, which anndata {version('anndata')} cannot read; "
            "write the file with this version of anndata, a column with its values as plain text"
        ) from error
