"""Which examples lie nearest: exact, in pieces that fit in memory."""

import numpy as np

ROWS = 512  # of one piece of a matrix of distances


def two_nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `b` nearest and second nearest to each of `a`: places ``(N, 2)``, distances.

    Found by a matrix product, in pieces, then measured exactly: a copy has distance 0, not the
    root of what rounding left.
    """
    if len(b) < 2:
        raise ValueError(f"expected at least 2 rows to be near to, got {len(b)}")
    places = np.empty((len(a), 2), dtype=np.int64)
    squares = np.einsum("ij,ij->i", b, b)
    for i in range(0, len(a), ROWS):
        scores = squares - 2 * (a[i : i + ROWS] @ b.T)  # |a - b|^2 up to |a|^2
        places[i : i + ROWS] = np.argpartition(scores, 1, axis=1)[:, :2]
    apart = np.empty(places.shape)
    for i in range(0, len(a), ROWS):
        here = slice(i, i + ROWS)
        gaps = a[here, None].astype(np.float64) - b[places[here]]
        apart[here] = np.sqrt((gaps**2).sum(2))
    order = np.argsort(apart, axis=1, kind="stable")
    return np.take_along_axis(places, order, 1), np.take_along_axis(apart, order, 1)
