import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trueshift.evaluation import places as module
from trueshift.evaluation.places import places


def elements(dtype: type) -> st.SearchStrategy[float]:
    """Anything finite: denormals, both zeros, the largest; and few values, so that many are equal."""
    info, width = np.finfo(dtype), 8 * np.dtype(dtype).itemsize
    few = [0.0, -0.0, 1.0, float(np.nextafter(dtype(1), dtype(2))), -1.5, 3.0]
    far = [float(info.max), float(info.min), float(info.tiny), float(info.smallest_subnormal)]
    return st.one_of(
        st.floats(allow_nan=False, allow_infinity=False, width=width),
        st.floats(0, 8, width=width),
        st.sampled_from([*few, *far]),
    )


def sides(dtype: type) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    values = st.sampled_from([elements(dtype), st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.just(1.0)])
    arrays = values.flatmap(lambda v: hnp.arrays(dtype, st.integers(1, 60), elements=v))
    return st.tuples(st.one_of(arrays, hnp.arrays(dtype, st.integers(0, 60), elements=elements(dtype))), arrays)


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few values are placed by a table too."""
    monkeypatch.setattr(module, "_FEW", 0)


@given(st.sampled_from([np.float32, np.float64]).flatmap(sides))
@example((np.float32([3e38, 0, -3e38]), np.float32([-3e38, 1e-45, 3e38])))
@example((np.float64([1e308, 5, -1e308]), np.float64([-1e308, 0, 1e308])))
@example((np.float32([0, 1e-45, 3e-45]), np.float32([0, 1e-45, 2e-45])))
@settings(max_examples=400, deadline=None)
def test_agrees_with_a_binary_search(given: tuple[np.ndarray, np.ndarray]) -> None:
    x, ordered = given[0], np.sort(given[1])
    below, equal = places(x, ordered)
    np.testing.assert_array_equal(below, ordered.searchsorted(x))
    np.testing.assert_array_equal(equal, ordered.searchsorted(x, side="right") > below)


@given(st.sampled_from([np.float32, np.float64]).flatmap(sides))
@settings(max_examples=200, deadline=None)
def test_a_run_of_the_lowest_may_be_left_out(given: tuple[np.ndarray, np.ndarray]) -> None:
    ordered = np.sort(given[1])
    x, lowest = given[0][given[0] != ordered[0]], int((ordered == ordered[0]).sum())
    below, equal = places(x, ordered, lowest)
    np.testing.assert_array_equal(below, ordered.searchsorted(x))
    np.testing.assert_array_equal(equal, np.isin(x, ordered))


@pytest.mark.parametrize("n_buckets", [3, 5000])  # crowded ones, and most of them empty
def test_many_values(monkeypatch: pytest.MonkeyPatch, n_buckets: int) -> None:
    monkeypatch.setattr(module, "_BUCKETS", n_buckets)
    monkeypatch.setattr(module, "_MOST", n_buckets)
    rng = np.random.default_rng(0)
    ordered = np.sort(np.log1p(rng.poisson(2, 3000) * rng.choice([0.7, 1, 1.3], 3000)).astype(np.float32))
    x = np.concatenate([ordered[::7], rng.normal(1, 1, 4000).astype(np.float32)])
    below, equal = places(x, ordered)
    np.testing.assert_array_equal(below, ordered.searchsorted(x))
    np.testing.assert_array_equal(equal, np.isin(x, ordered))


def test_what_is_searched_is_little() -> None:
    """The table does the work: of expression as it is, few values are left to the search."""
    rng = np.random.default_rng(1)
    ordered, x = (np.sort(rng.gamma(2, 1, n).astype(np.float32)) for n in (2000, 8000))

    class Counted(np.ndarray):
        searched = 0

        def searchsorted(self, v: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:  # type: ignore[override]
            Counted.searched += len(v)
            return np.asarray(self).searchsorted(v)

    below, _ = places(x, ordered.view(Counted))
    np.testing.assert_array_equal(below, ordered.searchsorted(x))
    assert 0 < Counted.searched < len(x) / 10
