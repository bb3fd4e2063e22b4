"""What is known of a perturbation beside the cells that carry it: named tables, or the place of its target gene.

A combination has the sum of the features of its components. A component without features is an error, never zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import anndata as ad
import numpy as np
from scipy.linalg import eigh

from trueshift.contract import ContractError, components, target_gene
from trueshift.models.base import Centroids, centroids

TARGET_EXPRESSION = "target_expression"


def gene_embedding(seen: Centroids, rank: int) -> np.ndarray:
    """Principal component scores of genes over the training pseudobulks, shape (G, K), K ≤ ``rank``.

    Pseudobulks are the perturbed training conditions and the controls of each context, centred over genes; genes are
    the observations, as in Ahlmann-Eltze, Huber & Anders 2025 (``prcomp`` of genes × conditions, ``x``). Pseudobulks
    that span fewer than ``rank`` dimensions give what they span.
    """
    if rank < 1:
        raise ContractError(f"rank {rank} of the gene embedding is below 1")
    bulks = np.concatenate([seen.means, np.stack(list(seen.control.values()))]).T
    bulks -= bulks.mean(axis=0)
    wide = bulks.shape[1] > bulks.shape[0]
    gram = bulks @ bulks.T if wide else bulks.T @ bulks  # the smaller one: far faster than an SVD for a few components
    spread, vectors = eigh(gram, subset_by_index=(max(len(gram) - rank, 0), len(gram) - 1))
    kept = np.flatnonzero(spread > 1e-12 * spread[-1])[::-1]
    scores = vectors[:, kept] * np.sqrt(spread[kept]) if wide else bulks @ vectors[:, kept]
    largest = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
    return scores * np.sign(largest)  # the sign of a component is arbitrary; fixed, it does not depend on the platform


@dataclass(frozen=True)
class Features:
    """Features of N components (or, for ``target_expression``, of N genes): ``names`` (N,) text, ``values`` (N, F)."""

    source: str
    names: np.ndarray
    values: np.ndarray

    @classmethod
    def read(
        cls, adata: ad.AnnData, name: str | None = None, rank: int = 10, seen: Centroids | None = None
    ) -> "Features":
        """Features by name.

        ``name`` is a table of ``adata.uns["perturbation_features"]``, ``"target_expression"`` (the embedding of the
        target gene, of ``rank`` dimensions, from the cells of ``adata``, which must then be training data), or None
        for the only table there is. ``seen`` spares computing the centroids of ``adata`` again.
        """
        if name == TARGET_EXPRESSION:
            return cls(name, adata.var_names.to_numpy(str), gene_embedding(seen or centroids(adata), rank))
        tables = adata.uns.get("perturbation_features", {})
        if name is None and len(tables) == 1:
            name = next(iter(tables))
        if name is None or name not in tables:
            has = f"has {', '.join(sorted(tables))}" if tables else "has none"
            wanted = f"perturbation features {name}" if name else "one table of perturbation features"
            raise ContractError(
                f"the model needs {wanted}, the dataset {has}; name one in params: features: of config/models.yaml, "
                "or bring a table in features: of config/datasets.yaml"
            )
        table = tables[name]
        values = table.to_numpy(np.float64)
        names = table.index.to_numpy(str)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ContractError(
                f"perturbation features {name}: {table.columns[column]} of {names[row]} is NaN or infinite; fill it in"
            )
        if len(np.unique(names)) < len(names):
            twice = table.index[table.index.duplicated()][0]
            raise ContractError(f"perturbation features {name}: {twice} has two rows; keep one")
        return cls(name, names, values)

    def arrays(self) -> dict[str, np.ndarray]:
        """What :meth:`of_arrays` makes these features of again; for saving without pickled parts."""
        return {"source": np.array(self.source), "names": self.names, "values": self.values}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Features":
        """Features from saved arrays, other arrays among them ignored."""
        return cls(str(arrays["source"]), arrays["names"], arrays["values"])

    def of(self, perturbations: Iterable[str]) -> np.ndarray:
        """Sums of component features, shape (P, F), float64; zero for ``control``, which has no component."""
        row_of = {name: row for row, name in enumerate(self.names.tolist())}
        sums = []
        for perturbation in perturbations:
            rows = []
            for component in components(perturbation):
                key = target_gene(component) if self.source == TARGET_EXPRESSION else component
                if key not in row_of:
                    raise ContractError(self._missing(component, key))
                rows.append(row_of[key])
            sums.append(self.values[rows].sum(axis=0))
        return np.stack(sums)

    def _missing(self, component: str, key: str) -> str:
        if self.source == TARGET_EXPRESSION:
            return (
                f"perturbation {component}: its target gene {key} is not among the genes of the data, so it has no "
                "features target_expression; keep the gene, or name a table in params: features: of config/models.yaml"
            )
        return (
            f"perturbation {component} has no row in perturbation features {self.source}; add it to the table, "
            "or leave the perturbation out of the dataset"
        )
