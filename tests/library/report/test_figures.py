"""What is drawn, read back from the axes."""

import itertools

import matplotlib.colors as mcolors
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from trueshift.contract import ContractError
from trueshift.report import figures
from trueshift.report.figures import plot_conditions, plot_cost, plot_topk_r2, save
from trueshift.report.style import spread

pytestmark = pytest.mark.slow  # draws figures

NAN = float("nan")


def line(model, value, k="20", *, dataset="d", split="s", low=NAN, high=NAN, **more):
    labels = {"dataset": dataset, "split": split, "fold": "all", "context": "all", "model": model, "variant": "default"}
    numbers = {"value": value, "low": low, "high": high, "floor": 0.1, "ceiling": 0.9}
    counts = {"n_conditions": 6, "n_undefined": 0, "n_no_effect": 0, "n_constant": 0}
    return labels | {"seed": "all", "metric": "r2_topk", "k": k} | numbers | counts | more


def table(*rows):
    return pd.DataFrame(list(rows))


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def marks(ax, marker, size=None):
    """Positions of single marks, rounded."""
    found = [
        artist for artist in ax.lines if artist.get_marker() == marker and (size is None or artist.get_ms() == size)
    ]
    return sorted((round(float(a.get_xdata()[0]), 3), round(float(a.get_ydata()[0]), 3)) for a in found)


def colour(artist):
    return mcolors.to_hex(artist.get_color())


# --- top-k R² -----------------------------------------------------------------------------------------


def test_models_are_sorted_and_their_dots_are_where_the_values_are():
    rows = [line("mean_shift", 0.3), line("scgen", 0.7, low=0.5, high=0.8), line("scgen", 0.2, variant="S256")]
    (ax,) = plot_topk_r2(table(*rows)).axes
    assert ax.get_title(loc="left") == "d · s"
    assert names(ax) == ["scgen", "mean_shift", "scgen S256"]
    assert marks(ax, "o", 5) == [(0.2, 2), (0.3, 1), (0.7, 0)]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top
    assert [tuple(a.get_xdata()) for a in ax.lines if a.get_linewidth() == 1.6] == [(0.5, 0.8)]


def test_learned_models_and_baselines_differ_in_colour():
    (ax,) = plot_topk_r2(table(line("mean_shift", 0.3), line("my_model", 0.7)), ["mean_shift"]).axes
    learned, baseline = ax.get_yticklabels()
    assert (colour(learned), colour(baseline)) == ("#0072b2", "#6e6e6e")


def test_dots_without_interval_are_hollow():
    (ax,) = plot_topk_r2(table(line("a", 0.3), line("b", 0.7, low=0.6, high=0.8))).axes
    fill = {round(a.get_xdata()[0], 1): a.get_markerfacecolor() for a in ax.lines if a.get_ms() == 5}
    assert fill == {0.3: "white", 0.7: "#0072B2"}


def test_other_k_are_lighter_and_below():
    (ax,) = plot_topk_r2(table(line("a", 0.5), line("a", 0.4, "40"), line("a", 0.3, "100"), line("a", 0.2, "all"))).axes
    small = sorted((a for a in ax.lines if a.get_ms() == 2.6), key=lambda a: -a.get_xdata()[0])
    assert [(a.get_xdata()[0], a.get_ydata()[0]) for a in small] == [(0.4, 0.3), (0.3, 0.3), (0.2, 0.3)]
    assert [a.get_alpha() for a in small] == sorted((a.get_alpha() for a in small), reverse=True)


def test_floor_and_ceiling_are_lines_with_a_band_between():
    (ax,) = plot_topk_r2(table(line("a", 0.5), line("b", 0.4, n_conditions=2, floor=0.7, ceiling=NAN))).axes
    verticals = {colour(a): a.get_xdata()[0] for a in ax.lines if len(a.get_xdata()) == 2}
    assert verticals["#d55e00"] == 0.1  # of the row that rests on most conditions
    assert verticals["#009e73"] == 0.9
    (band,) = ax.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.1, 0.9))


def test_missing_floor_and_ceiling_draw_nothing():
    (ax,) = plot_topk_r2(table(line("a", 0.5, floor=NAN, ceiling=NAN))).axes
    assert not {"#d55e00", "#009e73"} & {colour(a) for a in ax.lines}
    assert not ax.patches


def test_a_floor_outside_the_axis_is_printed():
    (ax,) = plot_topk_r2(table(line("a", -3, floor=-2.5, ceiling=0.5))).axes
    assert "−2.50" in texts(ax)
    (band,) = ax.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-1, 0.5))


def test_values_outside_are_marked_and_printed_never_moved():
    rows = [line("a", -7.97, low=-9, high=-0.5), line("a", -4.21, "40"), line("a", -0.5, "all")]
    (ax,) = plot_topk_r2(table(*rows)).axes
    assert ax.get_xlim() == (-1.0, 1.2)
    assert marks(ax, "o", 5) == []
    assert marks(ax, "o", 2.6) == [(-0.5, 0.3)]
    assert texts(ax)[-2:] == ["−7.97", "k = 40: −4.2"]
    assert {x for x, _ in marks(ax, "<")} == {-0.975}


def test_an_interval_beyond_the_right_edge_is_marked():
    (ax,) = plot_topk_r2(table(line("a", 0.9, low=0.4, high=1.4))).axes
    assert marks(ax, ">") == [(1.175, 0)]
    assert marks(ax, "o", 5) == [(0.9, 0)]


def test_a_panel_without_values_says_why():
    rows = [line(m, NAN, dataset="glioma", n_conditions=0, n_no_effect=27) for m in "ab"]
    rows += [line("a", NAN, dataset="other", n_conditions=0, n_undefined=3)]
    rows += [line("a", 0.5, dataset="z"), line("b", NAN, dataset="z")]
    glioma, other, z = plot_topk_r2(table(*rows)).axes
    assert "no condition has a detectable effect" in texts(glioma)
    assert any(text.startswith("no value is defined") for text in texts(other))
    assert "0 conditions, 27 without effect" in texts(glioma)
    assert names(z) == ["a", "b"]
    assert "undefined" in texts(z)


def test_one_panel_per_dataset_and_split_in_order():
    rows = [line("a", 0.5, dataset=d, split=s) for d, s in itertools.product("zy", "ts")]
    axes = plot_topk_r2(table(*rows, line("a", 0.1, dataset="w"))).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["w · s", "y · s", "y · t", "z · s", "z · t"]


def test_only_rows_over_everything_are_drawn():
    rows = [line("a", 0.5), line("a", 0.9, fold="1"), line("a", 0.9, context="c"), line("a", 0.9, seed="0")]
    (ax,) = plot_topk_r2(table(*rows, line("a", 0.9, metric="pearson_topk"))).axes
    assert marks(ax, "o", 5) == [(0.5, 0)]


def test_without_the_headline_metric_there_is_no_figure():
    for draw in (plot_topk_r2, lambda t: plot_cost(pd.DataFrame(), t), plot_conditions):
        with pytest.raises(ContractError, match="r2_topk"):
            draw(table(line("a", 0.5, metric="pearson_topk")))


def many(n=14, **more):
    models = ["perturbation_mean", "no_change", *(f"quite_long_name_{i}" for i in range(n - 2))]
    return [line(m, 0.5 - 0.01 * i, low=0.3, high=0.7, **more) for i, m in enumerate(models)]


def test_names_of_models_reach_into_no_other_panel():
    figure = plot_topk_r2(table(*many(split="s"), *many(split="t")))
    figure.draw_without_rendering()
    left, right = figure.axes
    assert all(label.get_window_extent().x0 > left.get_window_extent().x1 for label in right.get_yticklabels())
    assert all(label.get_window_extent().x0 >= 0 for label in left.get_yticklabels())
    apart(left.get_yticklabels())


def apart(labels):
    boxes = [Text.get_window_extent(label) for label in labels]  # of an annotation without its arrow
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(plot_topk_r2(table(*many())), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


# --- conditions ---------------------------------------------------------------------------------------


def score(model, value, perturbation="P", *, context="c", n_deg=5, fold="1", seed="0", **more):
    labels = {"dataset": "d", "split": "s", "fold": fold, "model": model, "variant": "default", "seed": seed}
    condition = {"context": context, "perturbation": perturbation, "dose": "1", "cluster": perturbation}
    return labels | condition | {"metric": "r2_topk", "k": "20", "value": value, "reason": "", "n_deg": n_deg} | more


def cells(ax):
    (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return mesh.get_array()


def hatched(ax):
    return {(p.get_x(), p.get_y()) for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch()}


def test_heatmap_has_models_by_conditions_with_undefined_hatched():
    rows = [score("a", 0.2, "P"), score("a", 0.4, "P", seed="1"), score("a", NAN, "Q", n_deg=0, reason="no effect")]
    rows += [score("b", 0.8, "P"), score("b", NAN, "Q", n_deg=0, reason="no effect"), score("b", 0.5, "R", n_deg=90)]
    ax = plot_conditions(table(*rows)).axes[0]
    assert names(ax) == ["b", "a"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["R (90)", "P (5)", "Q (0)"]
    drawn = cells(ax)
    np.testing.assert_allclose(drawn.filled(-9), [[0.5, 0.8, -9], [-9, 0.3, -9]])
    assert hatched(ax) == {(2, 0), (2, 1)}  # and (0, 1), where a was not run, stays blank
    assert {"0.50", "0.80", "0.30"} <= set(texts(ax))


def test_labels_name_what_varies():
    rows = [score("a", 0.2, "P", context=c, dose=d) for c in "xy" for d in ("1", "5")]
    ax = plot_conditions(table(*rows)).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x · 1 (5)", "x · 5 (5)", "y · 1 (5)", "y · 5 (5)"]


def test_conditions_beyond_the_limit_are_counted_not_drawn():
    rows = [score("a", 0.2, f"P{i:03}", n_deg=i) for i in range(figures.MOST_CONDITIONS + 7)]
    ax = plot_conditions(table(*rows)).axes[0]
    assert cells(ax).shape == (1, figures.MOST_CONDITIONS)
    assert texts(ax)[0].startswith("40 of 47 conditions, 7 with fewer DEGs not shown")
    assert ax.get_xticklabels()[0].get_text() == "P046 (46)"


def test_conditions_without_a_test_for_degs():
    ax = plot_conditions(table(score("a", 0.2, n_deg=pd.NA)).astype({"n_deg": "Int32"})).axes[0]
    assert ax.get_xticklabels()[0].get_text() == "P (–)"


def test_conditions_without_any_value_say_so():
    rows = [score("a", NAN, p, n_deg=0, reason="no effect") for p in "PQ"]
    ax = plot_conditions(table(*rows)).axes[0]
    assert texts(ax) == ["2 conditions", "no condition has a detectable effect"]


# --- cost ---------------------------------------------------------------------------------------------


def spent(model, train, predict=0.0, gpu=0.0, seed="0"):
    labels = {"dataset": "d", "split": "s", "fold": "1", "model": model, "variant": "default", "seed": seed}
    job = labels | {"gpu_peak_mb": gpu}
    stages = {"train": train, "predict": predict}
    return [job | {"rule": rule, "computing_seconds": seconds} for rule, seconds in stages.items()]


def test_cost_points_are_seconds_against_r2():
    costs = table(*spent("scgen", 10, 2, 100.0), *spent("scgen", 14, 2, seed="1"), *spent("mean_shift", 1, 0.5))
    (ax,) = plot_cost(costs, table(line("scgen", 0.7), line("mean_shift", 0.3), line("scgen", 0.1, "40"))).axes
    assert ax.get_xscale() == "log"
    assert marks(ax, "s") == [(14, 0.7)]  # mean over seeds; a square ran on a GPU
    assert marks(ax, "o") == [(1.5, 0.3)]
    assert [t for t in texts(ax) if t] == ["scgen", "mean_shift"]


def test_cost_prints_what_lies_outside_and_names_what_is_left_out():
    costs = table(*spent("a", 1), *spent("b", 2), *spent("c", 3))
    (ax,) = plot_cost(costs, table(line("a", 0.5), line("b", -7.0), line("c", NAN), line("d", 0.2))).axes
    assert "b (−7.00)" in texts(ax)
    assert marks(ax, "v") == [(2, round(ax.get_ylim()[0], 3))]
    assert "without value or cost: c, d" in texts(ax)


def test_cost_labels_never_overlap():
    rows = [line(f"model_{i}", 0.5 + 1e-4 * i) for i in range(20)]
    figure = plot_cost(table(*[job for i in range(20) for job in spent(f"model_{i}", 2.0)]), table(*rows))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    labels = [t for t in ax.texts if t.get_text().startswith("model")]
    assert len(labels) == 20
    apart(labels)
    assert all(Text.get_window_extent(label).x0 > ax.get_window_extent().x1 for label in labels)


def test_cost_without_values_says_so():
    (ax,) = plot_cost(table(*spent("a", 1)), table(line("a", NAN, n_no_effect=5))).axes
    assert "no condition has a detectable effect" in texts(ax)


@pytest.mark.parametrize("wanted", [[0.5] * 8, [0.0, 0.01, 0.5, 0.99, 1.0], [0.2], np.linspace(0, 1, 10)])
def test_spread_keeps_order_distance_and_bounds(wanted):
    wanted = np.asarray(wanted, dtype=float)
    places = spread(wanted, 0.1)
    assert (np.diff(places) > 0.1 - 1e-9).all()
    assert places.min() >= 0
    assert places.max() <= 1
    free = [0.2, 0.5, 0.8]
    np.testing.assert_allclose(spread(np.array(free), 0.1), free)
