"""Paired tests say which run is better, with the right p, and are wrong no oftener than they say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nestrec_recbole import NestRecError
from nestrec_recbole.evaluate.significance import (
    LEVEL,
    bootstrap_interval,
    compare,
    holm,
    permutation_test,
    seeds_test,
    verdict,
)


def gains(n_users: int, shift: float, seed: int, share: float = 1.0) -> np.ndarray:
    """Differences of users, normal of standard deviation 1; all but a share of them are 0, as of users who miss."""
    random = np.random.default_rng(seed)
    return random.normal(shift, 1.0, n_users) * (random.random(n_users) < share)


def test_the_higher_run_is_the_better_one() -> None:
    low = np.random.default_rng(0).random(300)
    high = low + 0.05 + 0.1 * np.random.default_rng(1).normal(size=300)
    up, down = compare(high, low), compare(low, high)
    assert up.difference == pytest.approx(high.mean() - low.mean()) and up.difference > 0
    assert 0 < up.low < up.difference < up.high and up.effect > 0 and up.better > up.worse
    assert verdict(up.difference, up.p) == "better" and up.p < 0.001
    assert verdict(down.difference, down.p) == "worse"
    assert (down.effect, down.better) == pytest.approx((-up.effect, up.worse))
    assert down.p == pytest.approx(up.p, abs=0.001)


def test_a_lucky_single_user_does_not_make_a_run_better() -> None:
    better = np.zeros(50)
    better[0] = 1.0
    found = compare(better, np.zeros(50))
    assert found.difference > 0 and found.p == 1.0 and found.low == 0.0
    assert verdict(found.difference, found.p) == "not distinguished"


def test_figures_worked_by_hand() -> None:
    found = compare(np.array([1.0, 0.5, 0.0, 1.0]), np.array([0.0, 0.5, 1.0, 0.0]))
    # Differences 1, 0, -1, 1: mean 1/4, variance (9 + 1 + 25 + 9) / 16 / 3; of the 8 signings 2 have sum 3, 6 sum 1.
    assert found.difference == 0.25 and found.effect == pytest.approx(0.25 / np.sqrt(44 / 48))
    assert (found.better, found.worse, found.p) == (0.5, 0.25, 1.0)
    assert (found.n_users, found.mean_a, found.mean_b) == (4, 0.625, 0.375)
    assert permutation_test(np.full(6, 0.1)) == 2 / 2**6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([-1.0, -0.6309, 0.0, 0.1, 0.3, 0.5, 1.0]), min_size=2, max_size=9))
def test_few_users_are_tested_exactly(values: list[float]) -> None:
    difference = np.array(values)
    sums = [sum(s * v for s, v in zip(signs, values, strict=True)) for signs in product([-1, 1], repeat=len(values))]
    as_far = [abs(one) >= abs(sum(values)) - 1e-9 for one in sums]
    assert permutation_test(difference) == pytest.approx(sum(as_far) / len(as_far))


def test_scipy_agrees() -> None:
    difference = gains(11, 0.6, seed=3)

    def mean(x: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis)

    expected = stats.permutation_test((difference,), mean, permutation_type="samples", n_resamples=np.inf)
    assert permutation_test(difference) == pytest.approx(expected.pvalue)


def test_drawn_p_is_near_the_exact_one() -> None:
    difference, n_draws = gains(16, 0.4, seed=5), 20_000
    exact = permutation_test(difference, n_draws=2**16)
    drawn = permutation_test(difference, n_draws=n_draws)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / n_draws))


def test_users_without_a_difference_do_not_change_p_and_no_p_is_0() -> None:
    difference = gains(200, 0.2, seed=7)
    assert permutation_test(np.concatenate([difference, np.zeros(900)])) == permutation_test(difference)
    assert permutation_test(np.zeros(30)) == 1.0
    assert permutation_test(np.full(500, 0.1), n_draws=999) == 1 / 1000


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_null_pairs_are_called_different_as_often_as_the_level_says(share: float) -> None:
    n_pairs = 1000
    p = np.array([permutation_test(gains(150, 0.0, seed, share), n_draws=499) for seed in range(n_pairs)])
    low, high = stats.binom.ppf([0.0005, 0.9995], n_pairs, LEVEL)
    assert low <= (p < LEVEL).sum() <= high
    assert stats.binom.ppf(0.0005, n_pairs, 0.5) <= (p < 0.5).sum() <= stats.binom.ppf(0.9995, n_pairs, 0.5)


def test_a_known_effect_is_found_as_often_as_theory_says() -> None:
    effect, n_users, n_pairs = 0.25, 120, 400
    found = sum(permutation_test(gains(n_users, effect, seed), n_draws=499) < LEVEL for seed in range(n_pairs))
    noncentral = stats.nct(n_users - 1, effect * np.sqrt(n_users))
    power = noncentral.sf(stats.t.ppf(1 - LEVEL / 2, n_users - 1))  # of the t-test, which it equals for normal values
    low, high = stats.binom.ppf([0.0005, 0.9995], n_pairs, power)
    assert low <= found <= high


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    n_pairs = 400
    intervals = [bootstrap_interval(gains(120, 0.1, seed), n_draws=400, seed=seed) for seed in range(n_pairs)]
    held = sum(low <= 0.1 <= high for low, high in intervals)
    low, high = stats.binom.ppf([0.0005, 0.9995], n_pairs, 0.945)  # a percentile interval is a little narrow
    assert low <= held <= high
    wide = bootstrap_interval(gains(120, 0.1, 0), level=0.99)
    assert wide[0] < intervals[0][0] and wide[1] > intervals[0][1]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_against_its_steps(p: list[float]) -> None:
    expected, largest = [0.0] * len(p), 0.0
    for step, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, p[place] * (len(p) - step)))
        expected[place] = largest
    assert holm(p) == pytest.approx(expected)


def test_holm_bounds_the_chance_of_any_false_finding() -> None:
    n_tables = 2000
    p = np.random.default_rng(11).random((n_tables, 15))
    false = sum(min(holm(table)) < LEVEL for table in p)
    assert false <= stats.binom.ppf(0.9995, n_tables, LEVEL)
    assert (p.min(axis=1) < LEVEL).sum() > 5 * false  # which many tests without it do not


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.array([0.1, np.nan]), np.array([0.1, 0.2]), "NaN"),
        (np.array([0.1]), np.array([0.2]), "two users or more"),
        (np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.1]), r"shapes \(3,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_tested_is_refused(a: np.ndarray, b: np.ndarray, said: str) -> None:
    with pytest.raises(NestRecError, match=said):
        compare(a, b)


# -- seeds ----------------------------------------------------------------------------------------------------------


def trainings(n_seeds: int, n_users: int, shift: float, random: np.random.Generator, between: float) -> np.ndarray:
    """Values (n_seeds, n_users) of a model whose trainings differ by as much as ``between`` in their means."""
    return shift + random.normal(0, between, (n_seeds, 1)) + random.normal(0, 1, (n_seeds, n_users))


def test_seeds_worked_by_hand() -> None:
    a, b = np.array([[1.0, 3.0], [3.0, 5.0]]), np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    # Users differ by 2 and 3: mean 5/2, variance 1/2 of 2. Seeds of A have means 2 and 4, variance 2 of 2; of B none.
    t, freedom = 2.5 / np.sqrt(1 / 4 + 1), (1 / 4 + 1) ** 2 / (1 / 16 + 1)
    made, found = seeds_test(a, b), compare(a, b)
    assert made is not None and made.p == pytest.approx(2 * stats.t.sf(t, freedom))
    assert (made.low + made.high) / 2 == pytest.approx(2.5)
    assert made.high - 2.5 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(5 / 4))
    assert (found.p_seeds, found.p_users, found.difference) == (made.p, 0.5, 2.5)
    assert found.p == 0.5 and (found.low, found.high) == made[1:] and compare(a[:1], b).p_seeds is None
    ones, zeros = np.ones((2, 3)), np.zeros((2, 3))
    same = seeds_test(a, a)
    assert same is not None and same.p == 1 and seeds_test(ones, zeros) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_two_models_alike_are_called_different_as_often_as_the_level_says(n_seeds: int) -> None:
    """A test over users alone tells the trainings of one model apart, the more surely the more users there are."""
    random, of_users, of_both = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        a, b = (trainings(n_seeds, 400, 0.0, random, between=0.2) for _ in range(2))
        of_users += stats.ttest_1samp(a.mean(axis=0) - b.mean(axis=0), 0).pvalue < LEVEL
        found = seeds_test(a, b)
        of_both += found is not None and found.p < LEVEL
    assert of_both / 1000 < LEVEL + 0.02 < 0.4 < of_users / 1000


def test_what_seeds_agree_on_is_found() -> None:
    random = np.random.default_rng(0)
    found = compare(trainings(3, 2000, 0.3, random, between=0.02), trainings(3, 2000, 0.0, random, between=0.02))
    assert found.p_seeds is not None and found.p_users <= found.p < 0.01
