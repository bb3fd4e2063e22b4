"""Small screens from arrays of cells, as both our scoring and cell-eval read them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cell_eval import MetricsEvaluator
from scipy import sparse

from trueshift.contract import make_prediction
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.registry import METRICS
from trueshift.evaluation.scoring import score
from trueshift.evaluation.truth import Truth

Cells = Mapping[str, np.ndarray]


class Screen(NamedTuple):
    """Test and predicted cells (n, G) by perturbation, input and reference controls; one context."""

    true: Cells
    predicted: Cells
    control_input: np.ndarray
    control_reference: np.ndarray
    genes: list[str]

    def ours(self) -> tuple[pd.DataFrame, Truth]:
        """Our scores, as perturbation × metric (values, reasons and flags), and the truth side."""
        labels = sorted(self.true)
        controls = {"control_input": self.control_input, "control_reference": self.control_reference}
        parts = [(self.true[label], label, "test") for label in labels]
        parts += [(cells, "control", role) for role, cells in controls.items()]
        obs = pd.concat([pd.DataFrame({"perturbation": p, "role": r}, index=range(len(x))) for x, p, r in parts])
        obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
        obs = obs.assign(context="A", dose=np.where(obs["perturbation"] == "control", "0", "1"))
        table = pd.DataFrame({"context": "A", "perturbation": labels, "dose": "1", "modality": "drug", "n_seen": 0})
        cells = ad.AnnData(
            sparse.csr_matrix(np.concatenate([x for x, _, _ in parts])),
            obs=obs,
            var=pd.DataFrame(index=pd.Index(self.genes)),
            uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": "lognorm", "cluster": "perturbation"}},
        )
        rows = np.repeat(np.arange(len(labels)), [len(self.predicted[label]) for label in labels])
        prediction = make_prediction(cells, np.concatenate([self.predicted[label] for label in labels]), rows)
        truth = truth_statistics(cells)
        names = [name for name, metric in METRICS.items() if not metric.per_k and "training" not in metric.needs]
        found = score(prediction, cells, truth, {"metrics": names})
        return found.pivot(index="perturbation", columns="metric", values=["value", "reason", "flags"]), truth

    def theirs(self, folder: Path, profile: str) -> pd.DataFrame:
        """cell-eval's scores, as perturbation × metric; with the profile "de", its tables of tests in ``folder``."""
        sides = []
        for cells, controls in ((self.true, self.control_reference), (self.predicted, self.control_input)):
            labels = sorted(cells)
            names = [name for label in labels for name in [label] * len(cells[label])] + ["control"] * len(controls)
            obs = pd.DataFrame({"target": names}, index=[f"cell{i}" for i in range(len(names))])
            matrix = np.concatenate([*(cells[label] for label in labels), controls])
            sides.append(ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(self.genes))))
        evaluator = MetricsEvaluator(
            adata_real=sides[0],
            adata_pred=sides[1],
            control_pert="control",
            pert_col="target",
            outdir=str(folder),
            skip_de=profile != "de",
        )
        found, _ = evaluator.compute(profile=profile, write_csv=False, skip_metrics=["clustering_agreement"])
        return found.to_pandas().set_index("perturbation")


@pytest.fixture(scope="session")
def counts() -> Callable[..., np.ndarray]:
    """Draws log1p counts, shape (n, len(rate)), with many ties."""

    def draw(rng: np.random.Generator, n: int, rate: np.ndarray) -> np.ndarray:
        return np.log1p(rng.poisson(rate, size=(n, len(rate)))).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def screen(counts: Callable[..., np.ndarray]) -> Callable[..., Screen]:
    """Makes a screen from rates (G,) by perturbation, true and predicted: 60 cells each, 80 controls a half."""

    def make(true: Cells, predicted: Cells, base: np.ndarray, genes: list[str] | None = None) -> Screen:
        rng = np.random.default_rng(0)
        sides = [{label: counts(rng, 60, rate) for label, rate in side.items()} for side in (true, predicted)]
        names = genes or [f"gene{i:02d}" for i in range(len(base))]
        return Screen(sides[0], sides[1], counts(rng, 80, base), counts(rng, 80, base), names)

    return make
