"""The places of many values among sorted ones, by buckets: for many, a binary search is several times slower."""

import numpy as np

_BUCKETS = 4  # for each sorted value
_MOST = 2**22  # buckets: float32 counts so far
_FEW = 1000  # values for which a table is not worth while


@np.errstate(over="ignore")  # what is too far away for its type goes to the last bucket
def places(x: np.ndarray, ordered: np.ndarray, lowest: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Where values ``x`` (n,) stand among the ascending ``ordered`` (m,), both of one floating type, without NaN.

    Returns how many are below each value, exactly ``ordered.searchsorted(x)``, and whether one equals it; both (n,).
    ``lowest`` may say how many of the first of ``ordered`` are equal, if none of ``x`` equals them: the run of zeros
    of sparse data then takes no part in the search.

    The range of ``ordered`` is divided into buckets of equal width, and a table says where each begins. Values of both
    sides get their bucket from one formula, which never falls as the value rises, however it rounds: no value stands
    before its bucket begins. Most stand there or one place further, and the others are searched for.
    """
    ended = np.append(ordered, ordered.dtype.type(np.nan))  # what stands last is below and equals nothing
    rest = ordered[lowest:]
    low, spread = (float(rest[0]), float(rest[-1]) - float(rest[0])) if len(rest) else (0.0, 0.0)
    n_buckets = min(_BUCKETS * len(rest), _MOST)
    scale = (n_buckets - 1) / spread if spread else 0.0
    if len(x) < max(_FEW, len(rest) / 2) or not 0 < scale < 1e30:  # beyond, a scale is no float32
        place = ordered.searchsorted(x)
        return place, ended.take(place) == x

    def bucket(values: np.ndarray) -> np.ndarray:
        found = values - low
        found *= scale
        np.clip(found, 0, n_buckets - 1, out=found)
        return found.astype(np.intp)

    begin = np.full(n_buckets + 1, lowest)
    begin[1:] += np.cumsum(np.bincount(bucket(rest), minlength=n_buckets))
    place = begin.take(bucket(x))
    place += ended.take(place) < x
    at = ended.take(place)
    wrong = at < x
    if lowest and x.min() < ordered[0]:
        wrong |= x < ordered[0]
    astray = np.flatnonzero(wrong)
    place[astray] = ordered.searchsorted(x[astray])
    at[astray] = ended.take(place[astray])
    return place, at == x
