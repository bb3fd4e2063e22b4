"""What the figures of the leaderboard draw, read back from their axes."""

import itertools

import matplotlib.colors as mcolors
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle
from scipy.stats import kendalltau

from trueshift.contract import ContractError, read_table, write_table
from trueshift.evaluation.registry import METRICS
from trueshift.report import agreement
from trueshift.report.agreement import plot_agreement
from trueshift.report.comparison import MOST_COLUMNS, NOTHING_PASSES, plot_leaderboard
from trueshift.report.heatmap import bare, listed
from trueshift.report.leaderboard import LEADERBOARD_COLUMNS, NEVER
from trueshift.report.style import LIMITS, save

pytestmark = pytest.mark.slow  # draws figures

NAN = float("nan")


def line(model, anchored=NAN, low=NAN, high=NAN, rank=2, metric="mse", *, value=None, fails="", **more):
    per_k, ranks = METRICS[metric].per_k, METRICS[metric].ranks
    row = dict.fromkeys(LEADERBOARD_COLUMNS, NAN)
    row |= {"dataset": "d", "split": "s", "metric": metric, "k": "20" if per_k else "", "model": model}
    row |= {"variant": "default", "value": anchored if value is None else value, "anchored": anchored}
    row |= {"anchored_low": low, "anchored_high": high, "n_conditions": 8, "n_units": 6}
    rank = pd.NA if fails or not ranks else rank
    row |= {"passes": not fails, "rank": rank, "rank_last": rank, "note": fails or ("" if ranks else NEVER)}
    return row | more


def table(*rows):
    return pd.DataFrame(list(rows)).astype({"rank": "Int64", "rank_last": "Int64"})


def rows_of(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def columns_of(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def colours(labels):
    return [mcolors.to_hex(label.get_color()) for label in labels]


def texts(ax):
    """Text by cell: row, column, from top to bottom."""
    found = sorted((int(t.get_position()[1]), int(t.get_position()[0]), t.get_position()[1], t) for t in ax.texts)
    cells = itertools.groupby(found, key=lambda entry: entry[:2])
    return {cell: [t.get_text() for *_, t in group] for cell, group in cells}


def mesh(ax):
    (found,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return found


def frames(ax):
    """First column, row and number of rows of every frame."""
    found = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_facecolor()[3] == 0]
    return sorted((round(p.get_x()), round(p.get_y()), round(p.get_height())) for p in found)


# --- anchored scores ----------------------------------------------------------------------------------


def test_models_by_metrics_best_headline_on_top():
    rows = [line("a", 0.2, 0.1, 0.3), line("b", -0.5, -0.75, -0.25), line("b", 0.1, variant="S256")]
    rows += [line(*m, metric="r2_topk") for m in (("a", 0.5), ("b", 1.25, 1.0, 1.5))]
    rows += [line("b", 0.75, metric="r2_topk", variant="S256")]
    ax, bar = plot_leaderboard(table(*rows)).axes
    assert ax.get_title(loc="left") == "d · s"
    assert ax.get_title(loc="right") == "8 conditions of 6 held-out units; best r2_topk (20) on top"
    assert rows_of(ax) == ["b", "b S256", "a"]
    assert columns_of(ax) == ["r2_topk\nk = 20", "mse"]
    np.testing.assert_allclose(mesh(ax).get_array(), [[1.25, -0.5], [0.75, 0.1], [0.5, 0.2]])
    assert texts(ax) == {
        **{(0, 0): ["1.25", "[1.00, 1.50]"], (0, 1): ["−0.50", "[−.75, −.25]"]},
        **{(1, 0): ["0.75"], (1, 1): ["0.10"]},  # without an interval, the value alone
        **{(2, 0): ["0.50"], (2, 1): ["0.20", "[.10, .30]"]},
    }
    assert ax.get_xlim()[1] == MOST_COLUMNS  # two columns are not stretched
    assert [t.get_text() for t in bar.get_xticklabels()] == ["−1", "−0.5", "0 = floor", "0.5", "1 = ceiling"]
    assert {line.get_xdata()[0] for line in bar.lines} == {0, 1}


def test_colours_end_numbers_do_not():
    (ax, _) = plot_leaderboard(table(line("a", -14.4, -1234, 7.2), line("b", 3.0), line("c", 0.0))).axes
    drawn = mesh(ax)
    assert drawn.get_array().min() == -14.4
    assert (drawn.norm.vmin, drawn.norm.vcenter, drawn.norm.vmax) == (LIMITS[0], 0, LIMITS[1])
    np.testing.assert_allclose(drawn.to_rgba(np.array([-14.4, 3.0])), drawn.to_rgba(np.array(LIMITS)))
    assert texts(ax)[0, 0] == ["−14", "[−1k, 7.2]"]


def test_framed_are_those_tied_for_first():
    ranks = {"a": 1, "b": 1, "c": 2, "d": 1, "e": pd.NA}
    rows = [line(m, 0.9 - 0.1 * i, rank=rank, metric="r2_topk") for i, (m, rank) in enumerate(ranks.items())]
    rows += [line(m, 0.5, rank=1 if m == "c" else 4) for m in ranks]
    ax = plot_leaderboard(table(*rows)).axes[0]
    assert rows_of(ax) == list("abcde")
    assert frames(ax) == [(0, 0, 2), (0, 3, 1), (1, 2, 1)]


def test_no_range_is_a_dash_and_may_be_framed():
    rows = [line("a", 0.5), line("b", NAN, value=0.7, rank=1, note="no range"), line("c", NAN, rank=pd.NA)]
    ax = plot_leaderboard(table(*rows)).axes[0]
    assert rows_of(ax) == ["b", "a", "c"]
    assert texts(ax) == {(0, 0): ["–"], (1, 0): ["0.50"], (2, 0): ["–"]}
    assert np.ma.getmaskarray(mesh(ax).get_array()).ravel().tolist() == [True, False, True]
    assert frames(ax) == [(0, 0, 1)]


def test_where_the_headline_fails_the_mean_rank_orders():
    rows = [line(m, 0.5, metric="r2_topk", value=v, fails="noise") for m, v in (("a", 0.9), ("b", 0.1), ("c", 0.2))]
    rows += [line("a", 0.2, rank=3), line("b", 0.9, rank=1), line("c", 0.9, rank=1)]
    rows += [line("a", 0.2, rank=1, metric="mae"), line("b", 0.8, rank=2, metric="mae")]
    rows += [line("c", 0.9, rank=1, metric="mae")]
    ax = plot_leaderboard(table(*rows)).axes[0]
    assert rows_of(ax) == ["c", "b", "a"]
    assert ax.get_title(loc="right").endswith("best mean rank on top")
    assert columns_of(ax) == ["mse", "mae"]
    assert ax.get_xlabel() == "do not pass: r2_topk (20)"


def test_one_k_is_drawn():
    several = [line("a", v, metric="r2_topk", k=k) for k, v in (("20", 0.2), ("40", 0.4), ("100", 0.9), ("all", 0.9))]
    assert texts(plot_leaderboard(table(*several)).axes[0]) == {(0, 0): ["0.20"]}
    ax = plot_leaderboard(table(*several[:0:-1])).axes[0]
    assert (columns_of(ax), texts(ax)) == (["r2_topk\nk = 40"], {(0, 0): ["0.40"]})


def test_metrics_that_never_rank_are_not_there():
    ax = plot_leaderboard(table(line("a", 0.5), line("a", 0.5, metric="pearson_topk"))).axes[0]
    assert columns_of(ax) == ["mse"]
    assert ax.get_xlabel() == ""


def test_where_nothing_passes_the_panel_says_why():
    beaten = "the duplicate does not beat {} (BDS 0.5{} [0.40, 0.60])"
    both = f"{beaten.format('no_change', 1)}; {beaten.format('mean_shift', 2)}"
    rows = [line(m, fails=both) for m in "ab"]
    rows += [line("a", metric="mae", fails=beaten.format("mean_shift", 3))]
    rows += [line("a", metric="rmse", fails="undefined in all conditions: no effect (21), too few controls (3)")]
    rows += [line("a", 0.5, metric="pearson_topk"), line("a", 0.5, dataset="e")]
    rows += [line("a", 0.5, dataset="f", metric="pearson_topk")]
    nothing, some, shown_only, _ = plot_leaderboard(table(*rows)).axes
    (text,) = nothing.texts
    assert text.get_text() == f"{NOTHING_PASSES}\n2 of 3 metrics: the duplicate does not beat mean_shift"
    assert rows_of(nothing) == []
    assert texts(some) == {(0, 0): ["0.50"]}
    assert shown_only.texts[0].get_text() == f"{NOTHING_PASSES}\nall its metrics are shown only"


def test_many_metrics_go_on_in_further_blocks_with_the_same_rows():
    ranking = [name for name, metric in METRICS.items() if metric.ranks]
    assert len(ranking) > 2 * MOST_COLUMNS
    rows = [line(m, 0.5, metric=name) for name in ranking for m in "ab"]
    *axes, _ = plot_leaderboard(table(*rows)).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["d · s", "d · s, continued", "d · s, continued"]
    drawn = [name.replace("\nk = 20", "").replace("\n", "") for ax in axes for name in columns_of(ax)]
    assert drawn == ranking
    assert {tuple(rows_of(ax)) for ax in axes} == {("a", "b")}
    assert max(len(columns_of(ax)) for ax in axes) <= MOST_COLUMNS


def test_learned_models_and_baselines_differ_in_colour():
    ax = plot_leaderboard(table(line("linear", 0.9), line("mine", 0.5)), ["linear"]).axes[0]
    assert dict(zip(rows_of(ax), colours(ax.get_yticklabels()), strict=True)) == {
        "linear": "#6e6e6e",
        "mine": "#0072b2",
    }


@pytest.mark.parametrize("k", [["20"], ["20", "40", "all"]])
def test_a_csv_gives_the_same_figure(tmp_path, k):
    rows = [line(m, 0.5, 0.4, 0.6, rank=r, metric="r2_topk", k=i) for m, r in (("a", 1), ("b", 2)) for i in k]
    rows += [line("a", 0.3, dataset="7"), line("a", 0.3, dataset="7", metric="rmse", fails="noise")]
    write_table(table(*rows), tmp_path / "leaderboard.csv")
    for draw in (plot_leaderboard, plot_agreement):
        save(draw(table(*rows)), tmp_path / "a.png")
        save(draw(read_table(tmp_path / "leaderboard.csv")), tmp_path / "b.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_text_stays_inside_its_cell_and_names_inside_the_figure():
    numbers = [(1.05, 1.04, 1.97), (-0.55, -0.95, 1.25), (-3.2, -9.94, -1.04), (-99.4, -998, -100), (-4321, -9e3, 5e3)]
    models = ["a_model_with_a_long_name S256_wide_and_deep", *"bcde"]
    metrics = [name for name, metric in METRICS.items() if metric.ranks][:MOST_COLUMNS]
    rows = [line(m, *n, metric=name) for m, n in zip(models, numbers, strict=True) for name in metrics]
    figure = plot_leaderboard(table(*rows))
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert rows_of(ax)[0] == "a_model_with_a_long_name S2…"
    for text in ax.texts:
        x, y = (int(v) for v in text.get_position())
        (left, top), (right, bottom) = ax.transData.transform([(x, y), (x + 1, y + 1)])
        box = text.get_window_extent()
        assert left <= box.x0 and box.x1 <= right and bottom <= box.y0 and box.y1 <= top, text.get_text()
    inside(figure, [*ax.get_yticklabels(), *ax.get_xticklabels(), *figure.legends])
    title = ax.get_title(loc="left")
    assert title == "d · s"


def inside(figure, artists):
    for artist in artists:
        box = artist.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("draw", [plot_leaderboard, plot_agreement])
def test_a_table_that_cannot_be_drawn_is_a_contract_error(draw):
    good = table(line("a", 0.5))
    for bad, message in (
        (good.iloc[:0], "no row"),
        (good.drop(columns="anchored_low"), "anchored_low is missing"),
        (good.assign(metric="r2"), "metric r2 is not in the registry"),
        (pd.concat([good, good]), r"d \| s \| mse \| a is there twice"),
    ):
        with pytest.raises(ContractError, match=message):
            draw(bad)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.4, ".40"), (-0.004, ".00"), (-0.4, "−.40"), (0.99, ".99"), (0.996, "1.00"), (1.05, "1.05"), (0, ".00")],
        *[(1.996, "2.0"), (-1.05, "−1.1"), (10.4, "10"), (9.96, "10"), (-998.9, "−999"), (999.6, "1k")],
        (-123456, "−123k"),
    ],
)
def test_numbers_in_little_space(value, text):
    assert bare(value) == text


def test_long_lists_are_counted():
    assert listed("lost: ", []) == ""
    assert listed("lost: ", ["a", "b"]) == "lost: a, b"
    names = [f"a_metric_{i:02}" for i in range(30)]
    lines = listed("lost: ", names).split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 120
    shown, more = "\n".join(lines).split(" and ")
    assert shown.count("a_metric") + int(more.removesuffix(" more")) == 30


# --- agreement of metrics -----------------------------------------------------------------------------


def values(metric, numbers, **more):
    return [line(m, value=v, metric=metric, **more) for m, v in zip("abcdef", numbers, strict=False)]


def tau(ax):
    return pd.DataFrame(mesh(ax).get_array().filled(np.nan), rows_of(ax), columns_of(ax))


def test_agreement_is_of_orders_in_which_better_is_higher():
    rows = values("r2_topk", [0.1, 0.2, 0.3, 0.4]) + values("mse", [4, 3, 2, 1]) + values("pearson_delta", [1, 1, 3, 2])
    ax = plot_agreement(table(*rows)).axes[0]
    drawn = tau(ax)
    assert ax.get_title(loc="left") == "d · s"
    assert ax.get_title(loc="right").startswith("4 models")
    assert drawn.loc["r2_topk (20)", "mse"] == 1
    expected = kendalltau([0.1, 0.2, 0.3, 0.4], [1, 1, 3, 2]).statistic
    assert drawn.loc["pearson_delta", "r2_topk (20)"] == pytest.approx(expected)
    assert drawn.loc["pearson_delta", "mse"] == pytest.approx(expected)
    assert np.isnan(np.diag(drawn.loc[:, drawn.index])).all()
    cell = (rows_of(ax).index("mse"), columns_of(ax).index("r2_topk (20)"))
    assert texts(ax)[cell] == ["1.00"]


@settings(max_examples=50, deadline=None)
@given(arrays(float, (7, 3), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, NAN])))
def test_tau_is_that_of_scipy_over_shared_models(scores):
    found = agreement._tau(scores, ["r2_topk", "mse", "mae"])
    for a, b in itertools.permutations(range(3), 2):
        left, right = scores[~np.isnan(scores[:, [a, b]]).any(axis=1)][:, [a, b]].T
        sign = -1 if 0 in (a, b) else 1  # errors are better where lower
        enough = len(left) >= 4 and len(set(left)) > 1 and len(set(right)) > 1
        expected = sign * kendalltau(left, right).statistic if enough else NAN
        assert found[a, b] == pytest.approx(expected, nan_ok=True)


def test_rounding_is_a_tie():
    exact = np.array([0.0, 0.0, 0.5, 0.5, 1.0])
    noisy = exact + np.array([0, 1e-9, 0, 4e-6, 0])
    found = agreement._tau(np.stack([noisy, [1, 2, 3, 4, 5.0]], axis=1), ["r2_topk", "pearson_delta"])
    assert found[0, 1] == pytest.approx(kendalltau(exact, [1, 2, 3, 4, 5]).statistic)


def test_metrics_that_never_rank_stand_below_a_line_and_failing_ones_are_crossed():
    orders = {"r2_topk": [1, 2, 3, 4], "mse": [4, 3, 2, 1], "pearson_delta": [1, 2, 3, 4], "r2_mean_topk": [1, 2, 4, 3]}
    rows = [row for metric, numbers in orders.items() for row in values(metric, numbers)]
    rows += values("pearson_topk", [1, 2, 3, 4], fails="noise") + values("mae", [4, 3, 1, 2], fails="noise")
    ax = plot_agreement(table(*rows)).axes[0]
    ranking, never = rows_of(ax)[:4], rows_of(ax)[4:]
    assert set(ranking) == {"r2_topk (20)", "mse", "pearson_delta", "mae ✗"} == set(columns_of(ax))
    assert never == ["pearson_topk (20) ✗", "r2_mean_topk (20)"]  # that which agrees most comes first
    assert columns_of(ax) == ranking
    (border,) = ax.lines
    assert border.get_ydata().tolist() == [4, 4]
    grey = {name for name, c in zip(rows_of(ax), colours(ax.get_yticklabels()), strict=True) if c == "#6e6e6e"}
    assert grey == {"mae ✗", *never}
    assert colours(ax.get_xticklabels()).count("#6e6e6e") == 1


def test_similar_metrics_are_neighbours():
    left, right = [1, 2, 3, 4, 5, 6], [3, 6, 1, 5, 2, 4]
    up = dict.fromkeys(["r2_topk", "cosine_delta", "pds_l2"], left)
    down = dict.fromkeys(["pearson_delta", "weighted_r2", "pds_l1"], right)
    rows = [row for metric, numbers in (up | down).items() for row in values(metric, numbers)]
    drawn = rows_of(plot_agreement(table(*rows)).axes[0])
    assert set(drawn[:3]) == {"r2_topk (20)", "cosine_delta", "pds_l2"}  # the headline's half comes first


def test_too_few_models_or_values():
    rows = values("mse", [1, 2, 3], dataset="few") + values("mae", [1, 2, 3], dataset="few")
    rows += values("mse", [1, 2, 3, 4], dataset="one") + values("mae", [1, 2, NAN, NAN], dataset="one")
    rows += [row for m in ("mse", "rmse") for row in values(m, [1, 2, 3, 4], dataset="some")]
    rows += values("mae", [1, 2, 3, NAN], dataset="some") + values("r2_topk", [1, 1, 1, 1], dataset="some")
    few, one, some, _ = plot_agreement(table(*rows)).axes
    assert [text.get_text() for text in few.texts] == [agreement.FEW_MODELS]
    assert [text.get_text() for text in one.texts] == [agreement.NOTHING_TO_COMPARE]
    assert some.get_xlabel() == "left out, fewer than 4 models with a value: mae"
    drawn = tau(some)
    assert drawn.loc["mse", "rmse"] == 1
    assert drawn.loc["r2_topk (20)"].isna().all()  # all the same: no order


def test_only_metrics_that_never_rank():
    ax = plot_agreement(table(*values("pearson_topk", [1, 2, 3, 4]), *values("pearson2_topk", [1, 2, 3, 4]))).axes[0]
    assert [text.get_text() for text in ax.texts] == [agreement.NOTHING_TO_COMPARE]


def test_agreement_of_all_metrics_is_legible():
    rng = np.random.default_rng(0)
    rows = [row for name in METRICS for row in values(name, rng.normal(size=6), fails="noise" if len(name) % 2 else "")]
    figure = plot_agreement(table(*rows))
    figure.draw_without_rendering()
    ax = figure.axes[0]
    inside(figure, [*ax.get_yticklabels(), *ax.get_xticklabels(), *figure.legends])
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert len(boxes) > 900
    cell = abs(np.diff(ax.transData.transform([(0, 0), (1, 1)]), axis=0))[0]
    assert all(box.width <= cell[0] and box.height <= cell[1] for box in boxes)


@pytest.mark.parametrize("draw", [plot_leaderboard, plot_agreement])
def test_the_same_table_gives_the_same_bytes(tmp_path, draw):
    rows = table(*(line(m, 0.1 * i, metric=n) for i, m in enumerate("abcde") for n in ("mse", "mae", "pds_l1")))
    for name in ("a", "b"):
        save(draw(rows), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
