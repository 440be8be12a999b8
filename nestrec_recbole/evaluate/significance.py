"""Is one run better than another? Paired tests over users, corrected for how many are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nestrec_recbole.errors import NestRecError

LEVEL = 0.05
_SIGNS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Comparison:
    """A against B on the same users.

    Attributes
    ----------
    n_users : int
    mean_a, mean_b : float
    low, high : float
        Bootstrap confidence interval of ``mean_a - mean_b``, at 1 - ``LEVEL``.
    p : float
        Of the two-sided sign-flip permutation test; not corrected for other comparisons.
    effect : float
        Cohen's d_z, the mean difference in its standard deviations over users. Above 0: A is higher.
    better, worse : float
        Shares of the users for whom A is higher, and lower.
    """

    n_users: int
    mean_a: float
    mean_b: float
    low: float
    high: float
    p: float
    effect: float
    better: float
    worse: float

    @property
    def difference(self) -> float:
        """Mean of A less mean of B."""
        return self.mean_a - self.mean_b


def compare(a: np.ndarray, b: np.ndarray, *, n_draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two runs user by user.

    Parameters
    ----------
    a, b : numpy.ndarray of shape (n_users,)
        A metric's value of each user, higher is better; place i of both is the same user. Runs of several seeds are
        averaged over seeds, user by user, beforehand.
    n_draws : int
        Of the permutation test; the bootstrap draws a fifth of them.

    Raises
    ------
    NestRecError
        When there are fewer than two users, the shapes differ or a value is not finite.

    Examples
    --------
    >>> found = compare(np.array([0.9, 0.8, 0.7, 0.9]), np.array([0.1, 0.2, 0.2, 0.1]))
    >>> round(found.difference, 3), found.p
    (0.675, 0.125)
    """
    if a.shape != b.shape or a.ndim != 1:
        raise NestRecError(f"paired values are of shapes {a.shape} and {b.shape}; expected one value per user in both")
    difference = a - b
    _check(difference)
    low, high = bootstrap_interval(difference, n_draws=n_draws // 5, seed=seed)
    spread = difference.std(ddof=1)
    return Comparison(
        n_users=len(a),
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        low=low,
        high=high,
        p=permutation_test(difference, n_draws=n_draws, seed=seed),
        effect=_effect(float(difference.mean()), float(spread)),
        better=float((difference > 0).mean()),
        worse=float((difference < 0).mean()),
    )


def _effect(mean: float, spread: float) -> float:
    """Cohen's d_z; infinite for a difference that is the same for all, 0 for none."""
    if spread > 0:
        return mean / spread
    return math.copysign(math.inf, mean) if mean else 0.0


def permutation_test(difference: np.ndarray, *, n_draws: int = 10_000, seed: int = 0) -> float:
    r"""Two-sided p-value of the mean of paired differences, by flipping their signs (Fisher 1935).

    Under the null hypothesis that it does not matter which run a value comes from, every difference could as well have
    the other sign. Where there are no more than ``n_draws`` ways to sign the differences, all are tried and p is exact;
    otherwise :math:`p = (1 + \#\{|t^*| \ge |t|\}) / (1 + n)` over n draws (Phipson & Smyth 2010), never 0.

    Parameters
    ----------
    difference : numpy.ndarray of shape (n_users,)

    Returns
    -------
    float
    """
    _check(difference)
    moving = difference[difference != 0]  # a zero has no sign to flip: most users miss under both runs
    n = len(moving)
    observed = abs(moving.sum()) - 1e-12 * np.abs(moving).sum()  # equal sums differ in their last digits
    if n <= 62 and 2**n <= n_draws:
        signs = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs(2 * (signs @ moving) - moving.sum()) >= observed).mean())
    random, n_as_far = np.random.default_rng(seed), 0
    at_once = max(1, _SIGNS_AT_ONCE // n)
    for start in range(0, n_draws, at_once):
        n_rows = min(at_once, n_draws - start)
        coins = random.integers(0, 256, (n_rows, -(-n // 8)), dtype=np.uint8)  # eight to a byte
        signs = np.unpackbits(coins, axis=1, count=n).astype(np.float64)
        n_as_far += int((np.abs(2 * (signs @ moving) - moving.sum()) >= observed).sum())
    return (1 + n_as_far) / (1 + n_draws)


def bootstrap_interval(
    difference: np.ndarray, *, level: float = 1 - LEVEL, n_draws: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap confidence interval of a mean over users (Efron 1979).

    Parameters
    ----------
    difference : numpy.ndarray of shape (n_users,)
    level : float
        Share of such intervals that hold the true mean.

    Returns
    -------
    low, high : float
    """
    _check(difference)
    found = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=level,
        n_resamples=n_draws,
        batch=max(1, _SIGNS_AT_ONCE // len(difference)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false finding among them is bounded (Holm 1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


def verdict(difference: float, p: float) -> str:
    """``better`` or ``worse`` where the adjusted p-value is below ``LEVEL``, else ``not distinguished``."""
    if p >= LEVEL or difference == 0:
        return "not distinguished"
    return "better" if difference > 0 else "worse"


def _check(difference: np.ndarray) -> None:
    if len(difference) < 2:
        raise NestRecError(f"a paired test needs two users or more; there are {len(difference)}")
    if not np.isfinite(difference).all():
        raise NestRecError("a paired test needs finite values; some are NaN or infinite: rank the runs anew")
