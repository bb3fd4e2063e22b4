"""What our scores and cell-eval's have in common, and by how much they differ. ``agreement.py FOLDER``.

The folder is that of a run of ``scoring.py``. Two differences are shown of each metric, the largest over conditions:
of the two programs as they are, and after the conversion that is named. What rests on tests is then computed by
cell-eval's own functions from tables of our tests, in which only what the conversion names is changed.
"""

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import polars as pl
from cell_eval._types import DEComparison, initialize_de_comparison
from cell_eval.metrics import metrics_registry
from scipy import stats
from scipy.special import ndtr

from trueshift.evaluation import cells as distances
from trueshift.evaluation.predicted import predicted_side
from trueshift.evaluation.reference import TestCells
from trueshift.evaluation.truth import FDR, read_truth


class Both:
    """The results of both programs in one folder: conditions are rows, in the order of our truth; genes are columns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.truth = read_truth(folder / "truth_stats.parquet")
        self.labels = self.truth.conditions["perturbation"].tolist()
        self.cells = TestCells(ad.read_h5ad(folder / "truth.h5ad"))
        self.prediction = ad.read_h5ad(folder / "prediction.h5ad")
        side = predicted_side(self.prediction, self.cells, self.truth, {"cells", "copies"})
        assert side.test is not None
        self.z_hat, self.p_hat = side.test
        self.delta = self.truth.mean.astype(float) - self.truth.control_reference
        self.delta_hat = side.mean - self.truth.control_input
        scores = pd.read_parquet(folder / "scores.parquet")
        names = scores["metric"] + scores["k"].map(lambda k: f" @{k}" if k else "")
        self.ours = scores.assign(metric=names).pivot(index="perturbation", columns="metric", values="value")
        self.theirs = pd.read_csv(folder / "cell_eval_dense/results.csv", index_col="perturbation")

    def our(self, name: str) -> np.ndarray:
        """A score of ours, (C,)."""
        return self.ours.loc[self.labels, name].to_numpy(float)

    def their(self, name: str) -> np.ndarray:
        """A score of cell-eval's, (C,)."""
        return self.theirs.loc[self.labels, name].to_numpy(float)

    def their_tests(self, side: str) -> dict[str, np.ndarray]:
        """U, p and numbers of cells in cell-eval's table of tests, (C, G) each."""
        table = pd.read_csv(self.folder / f"cell_eval_dense/{side}_de.csv")
        wide = table.pivot(index="target", columns="feature").loc[self.labels]
        names = {"u": "statistic", "p": "p_value", "n": "target_membership", "m": "ref_membership"}
        return {key: wide[name][self.truth.genes].to_numpy(float) for key, name in names.items()}

    def tables(
        self, real: dict[str, np.ndarray] | None = None, predicted: dict[str, np.ndarray] | None = None
    ) -> DEComparison:
        """Tables of tests as cell-eval reads them; what is not given is ours: adjusted p, and δ as fold change."""
        sides = {
            "real": {"fdr": self.truth.p_adjusted, "log2_fold_change": self.delta} | (real or {}),
            "pred": {"fdr": self.p_hat, "log2_fold_change": self.delta_hat} | (predicted or {}),
        }
        n, genes = self.delta.shape
        rows = {"target": np.repeat(self.labels, genes), "feature": np.tile(self.truth.genes.astype(str), n)}
        frames = {
            side: pl.DataFrame(rows | {"p_value": given["fdr"].ravel()} | {k: v.ravel() for k, v in given.items()})
            for side, given in sides.items()
        }
        return initialize_de_comparison(**frames)

    def of(self, name: str, tables: DEComparison) -> np.ndarray:
        """cell-eval's metric on such tables, (C,)."""
        found = metrics_registry.compute(name, tables)
        return np.array([found.get(label, np.nan) for label in self.labels], dtype=float)


def by_place(order: np.ndarray) -> np.ndarray:
    """Numbers (C, G) that put genes in this order, largest first."""
    size = np.empty(order.shape)
    np.put_along_axis(size, order, np.arange(order.shape[1], 0, -1.0)[None], axis=1)
    return size


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    """The largest, over what both define, and how many that are."""
    apart = np.abs(a - b)[~np.isnan(a) & ~np.isnan(b)]
    return (float(apart.max()) if apart.size else np.nan), apart.size


def agreement(both: Both) -> pd.DataFrame:
    """One row per metric: ours, cell_eval, as_they_are, converted, n, conversion."""
    rows: list[tuple[str, str, float, float, int, str]] = []

    def add(ours: str, theirs: str, a: np.ndarray, b: np.ndarray, conversion: str) -> None:
        """``a`` is ours, ``b`` cell-eval's value after the conversion."""
        rows.append((ours, theirs, difference(a, both.their(theirs))[0], *difference(a, b), conversion))

    def add_score(ours: str, theirs: str, b: np.ndarray, conversion: str) -> None:
        add(ours, theirs, both.our(ours), b, conversion)

    n = len(both.labels)
    for name in ("pearson_delta", "mse", "mae"):
        add_score(name, name, both.their(name), "none")
    for form in ("l1", "l2", "cosine"):
        place = n * (1 - both.their(f"discrimination_score_{form}"))
        add_score(f"pds_{form}", f"discrimination_score_{form}", 1 - place / (n - 1), "1 − place/n: 1 − place/(n − 1)")
    add_score("vcc2025_pds", "discrimination_score_l1", both.their("discrimination_score_l1"), "none")

    for name, side, z in (("truth", "real", both.truth.z.astype(float)), ("prediction", "pred", both.z_hat)):
        tests = both.their_tests(side)
        away = np.abs(tests["u"] - tests["n"] * tests["m"] / 2)
        spread = np.divide(away, np.abs(z), out=np.ones_like(z), where=z != 0)
        corrected = np.where(z == 0, 1, np.minimum(2 * ndtr(-(away - 0.5) / spread), 1))
        raw = difference(2 * ndtr(-np.abs(z)), tests["p"])[0]
        conversion = "ours with a continuity correction, |U − nm/2| − ½"
        rows.append((f"p, {name}", f"p_value of {side}", raw, *difference(corrected, tests["p"]), conversion))

    same = both.tables()
    counts = metrics_registry.compute("de_nsig_counts", same)
    degs, degs_hat = both.truth.p_adjusted < FDR, both.p_hat < FDR
    for name, side, found in (("n_deg", "real", degs), ("predicted DEGs", "pred", degs_hat)):
        counted = np.array([counts[label][side] for label in both.labels], dtype=float)
        add(name, f"de_nsig_counts_{side}", found.sum(axis=1).astype(float), counted, "our tests")
    for ours, theirs in (
        ("de_recall", "de_sig_genes_recall"),
        ("de_direction", "de_direction_match"),
        ("effect_spearman", "de_spearman_lfc_sig"),
        ("vcc2025_overlap", "overlap_at_N"),
    ):
        add_score(ours, theirs, both.of(theirs, same), "our tests, δ for log2 of the ratio of expm1(mean)")
    found_first = both.tables({"log2_fold_change": np.where(degs_hat, 2.0, 1.0)})
    conversion = "our tests; true DEGs beyond the number of predicted ones are not cut off"
    add_score("de_precision", "precision_at_N", both.of("precision_at_N", found_first), conversion)

    all_genes = np.zeros_like(both.delta)
    order_hat = np.lexsort((-np.abs(both.delta_hat), both.p_hat), axis=1)
    ranked_hat = {"log2_fold_change": by_place(order_hat), "fdr": all_genes}
    ranked = {"log2_fold_change": by_place(both.truth.order), "fdr": all_genes}
    overlap = both.of("overlap_at_N", both.tables(None, ranked_hat))
    add_score("de_overlap", "overlap_at_N", overlap, "our tests; all predicted genes, by p, then |δ̂|")
    for k in (50, 100):
        overlap = both.of(f"overlap_at_{k}", both.tables(ranked, ranked_hat))
        add_score(f"de_overlap_topk @{k}", f"overlap_at_{k}", overlap, "our tests; all genes, by p, then |δ|")
    ranks = stats.rankdata(both.p_hat, axis=1) / (all_genes.shape[1] + 1)
    for form in ("pr", "roc"):
        area = both.of(f"{form}_auc", both.tables(None, {"fdr": ranks}))
        add_score(f"de_{form}_auc", f"{form}_auc", area, "our tests; predicted p below 1e-10 not tied")

    conversion = "from our blocked distances: to controls, each cell paired with itself too"
    name = "pearson_edistance"
    add("(building block)", name, np.full(n, correlation_of_distances(both)), both.their(name), conversion)
    return pd.DataFrame(rows, columns=["ours", "cell_eval", "as_they_are", "converted", "n", "conversion"])


def correlation_of_distances(both: Both) -> float:
    """Pearson's r over conditions of the E-distances of true and of predicted cells to their controls.

    E-distances are V-statistics: means over all pairs, each cell with itself too.
    """
    of = both.prediction.obs["perturbation"].astype(str).to_numpy()
    true = [both.cells.cells(i) for i in range(len(both.labels))]
    predicted = [np.asarray(both.prediction.X[of == label]) for label in both.labels]

    def within(cells: np.ndarray) -> float:
        return float(distances.within(cells, 1.0)[0, 0]) * (len(cells) - 1) / len(cells)

    found = []
    for half, side in (("control_reference", true), ("control_input", predicted)):
        controls = both.cells.dense(both.cells.controls(0, half))
        among = within(controls)
        found.append([2 * distances.to_each(x, controls, 1.0)[0].mean() - within(x) - among for x in side])
    return float(np.corrcoef(np.array(found))[0, 1])


def main() -> None:
    folder = Path(sys.argv[1])
    both = Both(folder)
    table = agreement(both)
    table.to_csv(folder / "agreement.csv", index=False)
    print(f"  {'ours':22}{'cell-eval':28}{'as they are':>12}{'converted':>12}{'n':>8}   conversion")
    for r in table.itertuples():
        print(f"  {r.ours:22}{r.cell_eval:28}{r.as_they_are:12.1e}{r.converted:12.1e}{r.n:8}   {r.conversion}")
    print(f"  only cell-eval has: {', '.join(sorted(set(both.theirs.columns.astype(str)) - set(table['cell_eval'])))}")


if __name__ == "__main__":
    main()
