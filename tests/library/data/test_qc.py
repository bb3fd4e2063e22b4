"""Quality control."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from small_screen import make_screen

from trueshift.contract import ContractError, dense
from trueshift.data.canonical.features import noted
from trueshift.data.qc import found_in, quality_control
from trueshift.data.qc_figure import qc_figure

OPEN_QC = {"min_genes": 1, "min_cells": 1}


@pytest.fixture
def screen() -> ad.AnnData:
    return make_screen()


def test_qc_counts_what_it_removes(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[:4, 2:] = 0  # four cells with at most two genes
    values[:, 7] = 0
    values[10:13, 7] = 5  # a gene in three cells
    screen.X = sparse.csr_matrix(values)
    kept, report = quality_control(screen, {"min_genes": 3, "min_cells": 4})
    assert report["cells"] == {
        "before": len(values),
        "after": len(values) - 4,
        "removed": {"min_genes": 4, "max_mito": 0},
    }
    assert report["genes"] == {"before": 60, "after": 59, "removed": {"min_cells": 1}, "not_genes": {}}
    assert kept.shape == (len(values) - 4, 59)
    assert "G7" not in kept.var_names
    assert set(screen.obs_names[:4]).isdisjoint(kept.obs_names)
    assert json.loads(json.dumps(report)) == report


def test_qc_says_what_import_left_out_as_no_genes(screen: ad.AnnData) -> None:
    screen.uns["trueshift"].update(noted({"CRISPR Guide Capture": 5, "a/b": 2}))
    report = quality_control(screen, OPEN_QC)[1]
    assert report["genes"]["not_genes"] == {"CRISPR Guide Capture": 5, "a/b": 2}
    assert any("5 CRISPR Guide Capture, 2 a/b" in note for note in report["notes"])
    assert json.loads(json.dumps(report)) == report


def test_qc_says_where_no_batch_has_both_treated_and_controls(screen: ad.AnnData) -> None:
    def said() -> list[str]:
        return [note for note in quality_control(screen, OPEN_QC)[1]["notes"] if "every batch" in note]

    assert not said()
    screen.obs["batch"] = np.where(screen.obs["is_control"], "a", "b")
    assert len(said()) == 1
    screen.obs.loc[screen.obs_names[screen.obs["is_control"]][0], "batch"] = "b"
    assert not said()


def test_qc_equals_scanpy_filters(screen: ad.AnnData) -> None:
    import scanpy as sc

    found = dense(screen.X) > 0
    low, few = int(np.quantile(found.sum(axis=1), 0.2)), int(np.quantile(found.sum(axis=0), 0.4))
    reference = screen.copy()
    sc.pp.filter_cells(reference, min_genes=low)
    sc.pp.filter_genes(reference, min_cells=few)
    kept, report = quality_control(screen, {"min_genes": low, "min_cells": few, "confirm_loss": True})
    assert report["cells"]["removed"]["min_genes"] > 0 and report["genes"]["removed"]["min_cells"] > 0
    assert list(kept.obs_names) == list(reference.obs_names)
    assert list(kept.var_names) == list(reference.var_names)
    np.testing.assert_array_equal(dense(kept.X), dense(reference.X))


def test_qc_mitochondrial_share(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[:5] = 1
    values[:5, -1] = 200  # MT-B: 201 of 259 counts with MT-A
    screen.X = sparse.csr_matrix(values)
    kept, report = quality_control(screen, {**OPEN_QC, "max_mito": 0.75})
    assert report["cells"]["removed"] == {"min_genes": 0, "max_mito": 5}
    assert set(screen.obs_names[:5]).isdisjoint(kept.obs_names)
    with pytest.raises(ContractError, match=r"write 0\.2 for 20%"):
        quality_control(screen, {**OPEN_QC, "max_mito": 20})
    with pytest.raises(ContractError, match="mito_prefix 'mt:'"):
        quality_control(screen, {**OPEN_QC, "max_mito": 0.5, "mito_prefix": "mt:"})


def test_qc_skips_count_filters_for_other_kinds_and_says_so() -> None:
    screen = make_screen(kind="lognorm")
    kept, report = quality_control(screen, {**OPEN_QC, "min_cells": 150, "confirm_loss": True, "max_mito": 1e-9})
    assert kept.n_obs == screen.n_obs
    assert kept.n_vars < screen.n_vars
    assert any("max_mito skipped" in note for note in report["notes"])


def test_qc_refuses_large_losses_unless_confirmed(screen: ad.AnnData) -> None:
    screen = screen[:, :40].copy()
    with pytest.raises(ContractError, match=r"cells \(100%\).*fewer than min_genes: 200 genes; none is left"):
        quality_control(screen, {})
    tight = {"min_genes": 1, "min_cells": 300}
    with pytest.raises(ContractError, match=r"of 40 genes .*fewer than min_cells: 300.*confirm_loss: true"):
        quality_control(screen, tight)
    kept, _ = quality_control(screen, {**tight, "confirm_loss": True})
    assert 0 < kept.n_vars < 28


def test_qc_names_the_context_that_loses_its_controls(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[((screen.obs["context"] == "c1") & screen.obs["is_control"]).to_numpy()] = 0
    screen.X = sparse.csr_matrix(values)
    with pytest.raises(ContractError, match="context c1 loses all its 18 control cells"):
        quality_control(screen, OPEN_QC)


def test_qc_reports_vanished_conditions(screen: ad.AnnData) -> None:
    values = dense(screen.X)
    values[((screen.obs["context"] == "c1") & (screen.obs["perturbation"] == "G4")).to_numpy()] = 0
    screen.X = sparse.csr_matrix(values)
    _, report = quality_control(screen, OPEN_QC)
    assert report["vanished_conditions"] == [{"context": "c1", "perturbation": "G4", "dose": "1"}]
    row = next(r for r in report["conditions"] if r["context"] == "c1" and r["perturbation"] == "G4")
    assert (row["before"], row["after"]) == (12, 0)


def test_qc_names_the_nearest_setting(screen: ad.AnnData) -> None:
    with pytest.raises(ContractError, match="qc: no setting min_gene; did you mean min_genes"):
        quality_control(screen, {"min_gene": 3})


@pytest.mark.parametrize("kind", ["counts", "lognorm"])
def test_qc_figure_is_a_page(kind: str, tmp_path: Path) -> None:
    before = make_screen(kind=kind)
    _, report = quality_control(before, {**OPEN_QC, "min_cells": 20})
    qc_figure(found_in(before, "MT-"), report, tmp_path / "qc.png")
    from matplotlib.image import imread

    picture = imread(tmp_path / "qc.png")
    assert picture.shape[0] > 600 and picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["qc.png"]
