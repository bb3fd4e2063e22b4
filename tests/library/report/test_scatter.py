"""What the scatter of effects draws, read back from its axes."""

import itertools

import anndata as ad
import matplotlib.colors as mcolors
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.text import Text

from trueshift.contract import ContractError, make_prediction
from trueshift.evaluation.predicted import reasons_left_out
from trueshift.evaluation.reference import truth_statistics
from trueshift.evaluation.scoring import score
from trueshift.report import scatter
from trueshift.report.scatter import plot_scatter, predicted_profiles
from trueshift.report.style import BLUE, save

GENES = 60
MOVED = {("A", "weak"): 0, ("A", "strong"): 25, ("A", "some"): 8, ("few", "strong"): 25}


@pytest.fixture(scope="module")
def cells():
    """truth.h5ad: four conditions that move 0 to 25 of 60 genes; the context "few" has 20 controls."""
    rng = np.random.default_rng(0)
    blocks, obs = [], []
    for context, n in (("A", 60), ("few", 10)):
        for role in ("control_input", "control_reference"):
            blocks.append(rng.normal(2, 0.5, (n, GENES)))
            obs += [(role, context, "control", "0")] * n
    for (context, perturbation), n in MOVED.items():
        shift = np.where(np.arange(GENES) < n, 1.0 + 0.1 * np.arange(GENES), 0) * np.where(np.arange(GENES) % 2, 1, -1)
        blocks.append(rng.normal(2, 0.5, (40, GENES)) + shift)
        obs += [("test", context, perturbation, "1")] * 40
    table = pd.DataFrame(list(MOVED), columns=["context", "perturbation"])
    table = table.assign(dose="1", modality="KO", n_cells=40, n_seen=0)
    columns = ["role", "context", "perturbation", "dose"]
    return ad.AnnData(
        np.concatenate(blocks).astype(np.float32),
        obs=pd.DataFrame(obs, columns=columns, index=[f"cell{i}" for i in range(len(obs))]).assign(batch="b"),
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)]),
        uns={"conditions": table, "trueshift": {"schema_version": 1, "kind": "lognorm", "cluster": "perturbation"}},
    )


@pytest.fixture(scope="module")
def truth(cells):
    return truth_statistics(cells)


@pytest.fixture(scope="module")
def x_hat(truth):
    noise = np.random.default_rng(1).normal(0, 0.2, truth.mean.shape)
    return truth.control_input + 0.7 * (truth.mean - truth.control_reference) + noise


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def titles(figure):
    return [ax.get_title(loc="left") for ax in figure.axes]


def points(ax, colour):
    (found,) = [
        a for a in ax.lines if a.get_marker() == "o" and mcolors.to_hex(a.get_color()) == mcolors.to_hex(colour)
    ]
    return np.stack(found.get_data(), axis=1)


def test_conditions_with_most_degs_come_first(truth, x_hat):
    n_deg = truth.conditions.set_index(["context", "perturbation"])["n_deg"]
    figure = plot_scatter(truth, x_hat, "scgen on d")
    assert titles(figure) == ["A · strong", "A · some", "A · weak", "few · strong"]
    for ax, name in zip(figure.axes, ["strong", "some", "weak"], strict=False):
        n = n_deg["A", name]
        assert texts(ax)[0] == f"{n} DEG{'s' if n != 1 else ''}"
    assert texts(figure.axes[3])[0] == "no test for DEGs"
    assert figure.get_suptitle() == "scgen on d"
    assert figure.legends[0].texts[0].get_text() == "top 20 genes of the truth"


def test_only_as_many_conditions_as_asked(truth, x_hat):
    figure = plot_scatter(truth, x_hat, "scgen", conditions=2)
    assert titles(figure) == ["A · strong", "A · some"]
    assert figure.get_suptitle() == "scgen\n2 of 4 conditions, those with most DEGs"
    assert [bool(ax.get_ylabel()) for ax in figure.axes] == [True, False]
    with pytest.raises(ContractError, match="at least 1"):
        plot_scatter(truth, x_hat, "scgen", conditions=0)


def test_all_genes_are_where_their_effects_are(truth, x_hat):
    ax = plot_scatter(truth, x_hat, "").axes[0]  # A · strong, the second row
    effects = np.stack([truth.mean[1] - truth.control_reference[1], x_hat[1] - truth.control_input[1]], axis=1)
    top = truth.order[1, :20]
    np.testing.assert_allclose(points(ax, BLUE), effects[top], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        points(ax, scatter._CLOUD), effects[np.setdiff1d(np.arange(GENES), top)], rtol=1e-4, atol=1e-5
    )
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[0] < effects.min() < effects.max() < ax.get_xlim()[1]
    (identity,) = [a for a in ax.lines if a.get_linestyle() == "--"]
    assert tuple(identity.get_xdata()) == tuple(identity.get_ydata()) == ax.get_xlim()


def test_the_largest_effects_of_the_top_genes_are_named(truth, x_hat):
    ax = plot_scatter(truth, x_hat, "").axes[0]
    effect = pd.Series(truth.mean[1] - truth.control_reference[1], truth.genes).iloc[truth.order[1, :20]]
    largest = effect.abs().nlargest(5).index
    named = {t.get_text(): t.xy for t in ax.texts if t.get_text().startswith("GENE")}
    assert set(named) == set(largest)
    assert [named[gene][0] for gene in largest] == pytest.approx(effect[largest].tolist(), rel=1e-4)


def test_scores_are_those_of_the_tables(cells, truth, x_hat):
    prediction = make_prediction(cells, x_hat)
    scores = score(prediction, cells, truth, {"metrics": ["r2_topk", "pearson_delta"], "k": [20]})
    figure = plot_scatter(truth, predicted_profiles(prediction, truth), "")
    for ax, row in zip(figure.axes, (1, 2, 0, 3), strict=True):
        r2, pearson = scores.iloc[2 * row : 2 * row + 2].to_dict("records")
        shown = [
            f"{name}: {s['reason']}" if s["reason"] else f"{name} = {s['value']:.2f}".replace("-", "−")
            for name, s in (("r2_topk (20)", r2), ("pearson_delta", pearson))
        ]
        assert "\n".join(shown) in texts(ax)
    assert "r2_topk (20): too few controls\npearson_delta: too few controls" in texts(figure.axes[3])
    assert scores["value"].iloc[2] > 0.5


def test_many_genes_are_counted_in_hexagons(truth, x_hat, monkeypatch):
    monkeypatch.setattr(scatter, "MOST_POINTS", 39)
    ax = plot_scatter(truth, x_hat, "").axes[0]
    (hexagons,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert hexagons.get_array().sum() == GENES - 20
    assert len(points(ax, BLUE)) == 20


def test_names_cover_neither_points_nor_each_other(truth):
    for spread, rotate in itertools.product((0.01, 0.3), (1, -1)):
        effect = rotate * (truth.mean - truth.control_reference)
        noise = np.random.default_rng(2).normal(0, spread, truth.mean.shape)
        figure = plot_scatter(truth, truth.control_input + effect + noise, "")
        figure.draw_without_rendering()
        for ax in figure.axes:
            names = [Text.get_window_extent(t) for t in ax.texts if t.get_text().startswith("GENE")]
            corner = [t.get_window_extent() for t in ax.texts if t.get_text().startswith("r2_topk")]
            assert len(names) == 5
            assert not any(a.overlaps(b) for a, b in itertools.combinations(names + corner, 2))
            places = ax.transData.transform(points(ax, BLUE))
            assert not any(box.contains(*place) for box in names for place in places)
            assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in names)


def test_without_controls_there_is_nothing_to_draw(truth, x_hat):
    nothing = np.full_like(truth.control_reference, np.nan)
    bare = truth.take(np.array([3]), control_reference=nothing[[3]])
    (ax,) = plot_scatter(bare, x_hat[[3]], "").axes
    assert texts(ax)[-1] == "no controls: effects are undefined"


def test_a_condition_without_any_effect(truth):
    still = truth.take(np.array([0]), mean=truth.control_reference[[0]])
    (ax,) = plot_scatter(still, still.control_input, "").axes
    assert ax.get_xlim() == (-1, 1)
    assert "r2_topk (20): no effect" in "\n".join(texts(ax))


def test_fewer_genes_than_k(cells, x_hat):
    few = cells[:, :12].copy()
    ax = plot_scatter(truth_statistics(few), x_hat[:, :12], "").axes[0]
    assert len(points(ax, BLUE)) == 12
    assert texts(ax)[1].startswith("r2_topk (20): fewer than 20 genes\npearson_delta = ")


def test_conditions_are_matched_by_name(cells, truth, x_hat):
    prediction = make_prediction(cells, np.repeat(x_hat, 2, axis=0), np.repeat(np.arange(4), 2))
    shuffled = prediction[np.random.default_rng(0).permutation(8)]
    np.testing.assert_allclose(predicted_profiles(shuffled, truth), x_hat, rtol=1e-6)
    for wrong, message in (
        (prediction[2:], r"A \| weak \| 1 was asked for"),
        (prediction[:, ::-1], "genes are not those"),
    ):
        with pytest.raises(ContractError, match=message):
            predicted_profiles(wrong, truth)


@pytest.mark.parametrize("left", [[1], [0, 1, 2, 3]])
def test_a_condition_without_answer_shows_why(cells, truth, x_hat, left):
    answered = np.setdiff1d(np.arange(4), left)
    prediction = make_prediction(cells, x_hat)[answered].copy()
    table = truth.conditions.loc[left, ["context", "perturbation", "dose"]].assign(reason="no features")
    prediction.uns["unanswered"] = table.set_axis(table.index.astype(str))
    profiles, reasons = predicted_profiles(prediction, truth), reasons_left_out(prediction, truth)
    assert np.isnan(profiles[left]).all()
    figure = plot_scatter(truth, profiles, "", left_out=reasons)
    for ax, row in zip(figure.axes, (1, 2, 0, 3), strict=True):
        assert (texts(ax)[1:] == ["unanswered: no features"]) == (row in left)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_predictions_that_are_no_numbers(truth, x_hat, wrong):
    bad = x_hat.copy()
    bad[0, 0] = wrong
    for given in (bad, x_hat[:2]):
        with pytest.raises(ContractError, match="finite values"):
            plot_scatter(truth, given, "")


def test_the_same_prediction_gives_the_same_bytes(tmp_path, truth, x_hat):
    for name in ("a", "b"):
        save(plot_scatter(truth, x_hat, "t"), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
