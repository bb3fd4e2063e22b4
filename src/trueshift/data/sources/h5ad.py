"""Source format ``h5ad``: an AnnData file, its values in X or in a named layer."""

from pathlib import Path

import anndata as ad

from trueshift.contract import ContractError, read_h5ad
from trueshift.data.options import choices

FILES = ("path",)


def read(path: str | Path, layer: str | None = None) -> ad.AnnData:
    """Reads cells × genes with the values of ``layer`` (``raw``: of ``.raw``) in X, obs and var of the source.

    Raises :class:`ContractError` if the file cannot be read or holds no such layer.
    """
    adata = read_h5ad(path)
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
