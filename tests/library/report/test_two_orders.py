"""The two orders, and what is drawn of them, read back from the axes."""

import matplotlib.colors as mcolors
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import kendalltau

from trueshift.report.style import BLUE, GREY, save
from trueshift.report.two_orders import orders, plot_two_orders

pytestmark = pytest.mark.slow  # draws figures

NAN = float("nan")


def tables(values, split="s", folds=("1",), variant="default"):
    """Both tables, of models with these (legacy, honest) values."""
    labels = {"dataset": "d", "split": split, "variant": variant}
    results = [
        labels | {"model": model, "cell_line": "c", "fold": fold, "seed": 0, "r2_top20": legacy}
        for model, (legacy, _) in values.items()
        for fold in folds
    ]
    over = {"fold": "all", "context": "all", "seed": "all", "metric": "r2_topk"}
    tidy = [
        labels | over | {"model": model, "k": k, "value": honest if k == "20" else 9.0}
        for model, (_, honest) in values.items()
        for k in ("20", "80")
    ]
    return pd.DataFrame(results), pd.DataFrame(tidy)


def both(*pairs):
    return tuple(pd.concat(parts, ignore_index=True) for parts in zip(*pairs, strict=True))


def texts(ax):
    return [text.get_text() for text in ax.texts]


def ends(ax):
    """The lines between the sides: colour, style, y on the left, y on the right."""
    joined = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1]]
    return [(line.get_color(), line.get_linestyle(), *map(float, line.get_ydata())) for line in joined]


def test_lines_and_folds_are_averaged_and_the_other_side_is_that_of_topk_r2():
    results, tidy = tables({"a": (0.2, 0.5)}, folds=("1", "2", "3"))
    results["r2_top20"] = [0.1, 0.3, NAN]
    (row,) = orders(results, tidy).to_dict("records")
    assert (row["legacy"], row["honest"]) == (pytest.approx(0.2), 0.5)


def test_ranks_admit_ties_up_to_rounding_and_leave_out_what_has_no_value():
    values = {"a": (0.5, 0.0), "b": (0.5 + 1e-7, -3.0), "c": (0.7, 1e-7), "d": (0.4, NAN), "e": (0.4 + 1e-3, -40.0)}
    table = orders(*tables(values)).set_index("model")
    assert table["legacy_rank"].to_dict() == {"a": 2, "b": 2, "c": 1, "d": 5, "e": 4}
    assert table.loc[["a", "b", "c", "e"], "honest_rank"].tolist() == [1, 3, 1, 4]
    assert np.isnan(table.loc["d", "honest_rank"])


def test_each_line_leads_from_the_place_on_the_left_to_that_on_the_right():
    (ax,) = plot_two_orders(*tables({"a": (0.9, -2.0), "mean": (0.8, 0.3), "b": (0.1, 0.2)}), ["mean"]).axes
    assert ends(ax) == [(BLUE, "-", 0, 2), (BLUE, "-", 2, 1), (GREY, "-", 1, 0)]  # a, b, mean
    assert [texts(ax).count(text) for text in ("a", "b", "mean", "0.900", "−2.000")] == [2, 2, 2, 1, 1]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top
    tau = kendalltau([1, 2, 3], [3, 1, 2]).statistic
    assert f"3 models, Kendall's τ of the two orders {tau:.2f}".replace("-", "−") in texts(ax)


def test_models_that_tie_meet_in_one_point():
    (ax,) = plot_two_orders(*tables({"a": (0.6, 0.1), "b": (0.6, 0.3), "c": (0.6, 0.2), "d": (0.1, 0.0)})).axes
    assert [line[2:] for line in ends(ax)] == [(1, 2), (1, 0), (1, 1), (3, 3)]


def test_what_is_undefined_stands_below_the_others_and_says_so():
    (ax,) = plot_two_orders(*tables({"a": (0.9, NAN), "b": (NAN, 0.2), "c": (0.3, 0.1), "d": (0.2, -12345.6)})).axes
    found = {line[1:] for line in ends(ax)}
    assert found == {(":", 0, 3.6), (":", 3.6, 0), ("-", 1, 1), ("-", 2, 2)}
    assert texts(ax).count("undefined") == 2
    assert "−1e+04" in texts(ax)


def test_a_panel_per_dataset_and_split_and_the_variant_in_the_name():
    pairs = tables({"a": (0.9, 0.1)}, "one", variant="small"), tables({"a": (0.9, NAN)}, "two")
    figure = plot_two_orders(*both(*pairs))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["d · one", "d · two"]
    assert "a small" in texts(figure.axes[0])
    assert "1 model" in texts(figure.axes[1])


@pytest.mark.parametrize("splits", [("one",), ("one", "two", "three")])
@pytest.mark.parametrize("longest", ["additive", "a_wide_MODEL_WITH_A_NAME_of_WWWWWWWWWWWW"])
def test_nothing_is_clipped_and_no_text_lies_on_another(splits, longest, tmp_path):
    rng = np.random.default_rng(0)
    values = {f"model_{i}": (rng.random(), rng.normal()) for i in range(16)} | {longest: (0.5, -123.4)}
    values |= {"none": (NAN, NAN)}
    figure = plot_two_orders(*both(*(tables(values, split) for split in splits)))
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    shown = [text for ax in figure.axes for text in ax.texts]
    boxes = [text.get_window_extent(renderer) for text in shown]
    for text, box in zip(shown, boxes, strict=True):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, text.get_text()
    for i, box in enumerate(boxes):
        for other, text in zip(boxes[:i], shown[:i], strict=True):
            assert not box.overlaps(other), (text.get_text(), shown[i].get_text())
    for path in (tmp_path / "1.png", tmp_path / "2.png"):
        save(figure, path)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_colours_are_those_of_the_other_figures():
    (ax,) = plot_two_orders(*tables({"mean": (0.9, 0.1), "mine": (0.8, 0.2)}), ["mean"]).axes
    colours = {text.get_text(): mcolors.to_hex(text.get_color()) for text in ax.texts}
    assert (colours["mean"], colours["mine"]) == (GREY.lower(), BLUE.lower())
