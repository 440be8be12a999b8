"""Is one model better than another? Paired tests over users, and over seeds too, corrected for how many are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
        Confidence interval of ``mean_a - mean_b``, at 1 - ``LEVEL``: that of :func:`seeds_test` or, where there is one
        seed of A or of B, a bootstrap over users.
    p_users : float
        Of the two-sided sign-flip permutation test; not corrected for other comparisons.
    p_seeds : float or None
        Of :func:`seeds_test`, not corrected either; None where there is one seed of A or of B.
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
    p_users: float
    effect: float
    better: float
    worse: float
    p_seeds: float | None = None

    @property
    def p(self) -> float:
        """The larger of the two: what holds must hold for other users, and for other seeds where these are known."""
        return max(self.p_users, self.p_seeds or 0.0)

    @property
    def difference(self) -> float:
        """Mean of A less mean of B."""
        return self.mean_a - self.mean_b


def compare(a: np.ndarray, b: np.ndarray, *, n_draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two runs user by user.

    Parameters
    ----------
    a, b : numpy.ndarray of shape (n_users,) or (n_seeds, n_users)
        A metric's value of each user, higher is better; place i of both is the same user. Users are compared by their
        means over seeds, of which A and B may have different numbers.
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
    if a.shape[-1:] != b.shape[-1:] or not {a.ndim, b.ndim} <= {1, 2}:
        raise NestRecError(f"paired values are of shapes {a.shape} and {b.shape}; expected one value per user in both")
    of_seeds = seeds_test(np.atleast_2d(a), np.atleast_2d(b))
    a, b = (np.atleast_2d(values).mean(axis=0) for values in (a, b))
    difference = a - b
    _check(difference)
    if of_seeds is None:
        low, high = bootstrap_interval(difference, n_draws=n_draws // 5, seed=seed)
    else:
        low, high = of_seeds.low, of_seeds.high
    spread = difference.std(ddof=1)
    return Comparison(
        n_users=len(a),
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        low=low,
        high=high,
        p_users=permutation_test(difference, n_draws=n_draws, seed=seed),
        p_seeds=None if of_seeds is None else of_seeds.p,
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


class SeedsTest(NamedTuple):
    """p-value and confidence interval, at 1 - ``LEVEL``, of a difference."""

    p: float
    low: float
    high: float


def seeds_test(a: np.ndarray, b: np.ndarray) -> SeedsTest | None:
    r"""Two-sided t-test of a difference between models, of whose seeds and users these are a sample.

    One training more would come out otherwise, by as much as seeds differ; a test over users does not know of it, and
    with many users tells two trainings of one model apart. With :math:`m_s` the mean over users of seed s, and
    :math:`d_u` a user's difference of the means over seeds,

    .. math:: t = \frac{\bar d}{\sqrt{v}}, \quad
              v = \frac{s^2(d_u)}{n} + \frac{s^2(m_s^a)}{S_a} + \frac{s^2(m_s^b)}{S_b}

    has nearly a t distribution, of degrees of freedom by Satterthwaite (1946) from n - 1, S_a - 1 and S_b - 1. Two
    seeds say little of how far seeds lie apart: beside a model that has no randomness, such as Pop, p is below .05 in
    some 10 % of draws where nothing differs, with three seeds in 7 %, with five in 5 %.

    Parameters
    ----------
    a, b : numpy.ndarray of shape (n_seeds, n_users)

    Returns
    -------
    SeedsTest or None
        None where there is one seed of A or of B.
    """
    if min(len(a), len(b)) < 2:
        return None
    difference = a.mean(axis=0) - b.mean(axis=0)
    _check(difference)
    samples = (difference, a.mean(axis=1), b.mean(axis=1))
    parts = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    freedom = np.array([len(sample) - 1 for sample in samples])
    mean, v = float(difference.mean()), float(parts.sum())
    if not v:
        return SeedsTest(float(mean == 0), mean, mean)
    t = stats.t(v**2 / (parts**2 / freedom).sum())
    reach = t.ppf(1 - LEVEL / 2) * np.sqrt(v)
    return SeedsTest(float(2 * t.sf(abs(mean) / np.sqrt(v))), mean - reach, mean + reach)


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
