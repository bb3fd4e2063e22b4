"""Files as Cell Ranger writes them: folders and HDF5, versions 2 and 3."""

import gzip
from pathlib import Path

import h5py
import numpy as np
from scipy import sparse
from scipy.io import mmwrite


def write_folder(
    folder: Path, counts: np.ndarray, cells: list[str], features: list[tuple[str, ...]], version: int = 3
) -> Path:
    """``counts`` (cells, features) and the lines of features: id, name and, in version 3, type; 3 is gzipped."""
    folder.mkdir(exist_ok=True)
    end, name = ("", "genes.tsv") if version == 2 else (".gz", "features.tsv")
    lists = {"barcodes.tsv": [(cell,) for cell in cells], name: features}
    for file, lines in lists.items():
        text = "".join("\t".join(line) + "\n" for line in lines).encode()
        (folder / (file + end)).write_bytes(gzip.compress(text) if end else text)
    with gzip.open(folder / "matrix.mtx.gz", "wb") if end else (folder / "matrix.mtx").open("wb") as stream:
        mmwrite(stream, sparse.coo_matrix(counts.T.astype(int)))
    return folder


def write_h5(
    path: Path, counts: np.ndarray, cells: list[str], features: list[tuple[str, ...]], version: int = 3
) -> Path:
    """The same as one file."""
    matrix = sparse.csc_matrix(counts.T.astype(np.int32))
    texts = [np.array(column, dtype="S") for column in zip(*features, strict=True)]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = np.array(matrix.shape), np.array(cells, dtype="S")
        if version == 2:
            group["genes"], group["gene_names"] = texts[:2]
        else:
            of = group.create_group("features")
            of["id"], of["name"], of["feature_type"] = texts
            of["genome"] = np.array(["GRCh38"] * len(features), dtype="S")
    return path
