"""Shares of a set, and how far chance moves them."""

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True, kw_only=True)
class Share:
    """`hits` of `n` examples.

    >>> str(Share(hits=98, n=100))
    '98.0 % (93.0 to 99.4 %)'
    """

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def error(self) -> float:
        """The standard error ``sqrt(p (1 - p) / n)``: the bootstrap's, in closed form."""
        return (self.value * (1 - self.value) / self.n) ** 0.5

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of all such examples lies 95 times in 100, by Wilson."""
        found = binomtest(self.hits, self.n).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"
