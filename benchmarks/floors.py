"""What no scoring of a benchmark folder can go below on this machine: starting, reading, multiplying, sorting.

``floors.py FOLDER``, on as many threads as the scoring itself.
"""

import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np

READ = {"truth side": ("truth.h5ad", "train.h5ad"), "prediction": ("truth.h5ad", "prediction.h5ad")}


def main() -> None:
    folder = Path(sys.argv[1])
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import anndata, scipy.sparse, pyarrow.parquet"], check=True)
    print(f"  start Python, import anndata, SciPy, pyarrow: {time.perf_counter() - begin:.2f} s a process")
    for name, files in READ.items():
        begin = time.perf_counter()
        size = sum(len((folder / file).read_bytes()) for file in files)
        print(f"  {name}: read {size / 1e6:.0f} MB: {time.perf_counter() - begin:.2f} s")

    prediction = ad.read_h5ad(folder / "prediction.h5ad")
    sizes = prediction.obs.groupby("perturbation", observed=True).size().to_numpy()
    genes = prediction.n_vars
    for dtype in (np.float32, np.float64):
        cells = prediction.X[: sizes.max()].astype(dtype)
        begin = time.perf_counter()
        for n in sizes:  # predicted with true cells, and with one another
            cells[:n] @ cells[:n].T
            cells[:n] @ cells[:n].T.copy()
        seconds = time.perf_counter() - begin
        flops = 2 * genes * 2 * (sizes.astype(float) ** 2).sum()
        what = f"{flops / 1e9:.0f} GFLOP in {np.dtype(dtype)}"
        print(f"  prediction: products of cells for distances, {what}: {seconds:.2f} s")
    columns = np.ascontiguousarray(prediction.X[: sizes.max()].T)
    begin = time.perf_counter()
    for _ in sizes:
        np.sort(columns, axis=1)
    print(f"  prediction: sort the cells of each condition within each gene: {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
