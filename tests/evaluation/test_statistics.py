import numpy as np
import pytest
from scipy.stats import kstest

from finetune.evaluation.statistics import (
    compare,
    compare_seeds,
    holm,
    interval,
    interval_of_seeds,
    power,
    smallest_difference,
    visible,
)


def test_values_that_do_not_vary_have_no_interval_to_speak_of():
    assert interval(np.full(7, 0.25), 300) == (0.25, 0.25)


def test_the_interval_is_that_of_the_mean():
    # 100 zeros and ones: standard error of the mean .05, so mean ± 1.96 x .05
    values = np.repeat([0.0, 1.0], 50)
    low, high = interval(values, 20_000, seed=1)
    assert low == pytest.approx(0.402, abs=0.012) and high == pytest.approx(0.598, abs=0.012)


def test_the_interval_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    samples = rng.beta(2, 5, (400, 60))  # mean 2/7, skewed as scores are
    covered = [low <= 2 / 7 <= high for low, high in (interval(row, 400) for row in samples)]
    assert 0.91 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("samples", [999, 1000, 2500])
def test_as_many_resamples_as_asked_for(samples, monkeypatch):
    drawn = []
    percentile = np.percentile

    def watched(values, *args):
        drawn.append(len(values))
        return percentile(values, *args)

    monkeypatch.setattr(np, "percentile", watched)
    interval(np.arange(5.0), samples)
    assert drawn == [samples]


def test_nothing_to_resample():
    with pytest.raises(ValueError, match="at least one query"):
        interval(np.array([]), 100)


def test_seeds_decide():
    rng = np.random.default_rng(0)
    base, other = rng.random(50), rng.random(50)
    assert compare(base, other, 500, 3) == compare(base, other, 500, 3)
    assert compare(base, other, 500, 3) != compare(base, other, 500, 4)


def test_the_p_value_of_five_wins_in_five():
    # 2 of the 2^5 sign patterns are as extreme: 1/16
    found = compare(np.zeros(5), np.ones(5), 50_000)
    assert found.delta == 1.0 and (found.ci_low, found.ci_high) == (1.0, 1.0)
    assert found.p_value == pytest.approx(1 / 16, abs=0.004)


def test_the_p_value_of_unequal_differences():
    # .4 + .2 - .1 = .5 of at most .7: of the 8 patterns 4 reach |.5|: ++-, +++, and their mirrors
    found = compare(np.zeros(3), np.array([0.4, 0.2, -0.1]), 50_000)
    assert found.delta == pytest.approx(0.5 / 3)
    assert found.p_value == pytest.approx(0.5, abs=0.01)


def test_no_difference_at_all():
    values = np.random.default_rng(0).random(40)
    found = compare(values, values, 300)
    assert (found.delta, found.ci_low, found.ci_high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_p_is_never_zero():
    found = compare(np.zeros(300), np.ones(300), 1000)
    assert found.p_value == pytest.approx(1 / 1001)


def test_the_order_of_the_systems_changes_the_sign_alone():
    rng = np.random.default_rng(5)
    base, other = rng.random(80), rng.random(80) + 0.05
    one, two = compare(base, other, 2000), compare(other, base, 2000)
    assert one.delta == pytest.approx(-two.delta) and one.p_value == two.p_value
    assert one.ci_low == pytest.approx(-two.ci_high)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        base = rng.random(40)
        found.append(compare(base, base + rng.normal(0, 0.2, 40), 300).p_value)
    assert kstest(found, "uniform").pvalue > 0.01
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.08


def test_a_true_difference_of_the_smallest_size_is_found_4_times_in_5():
    rng = np.random.default_rng(2)
    spread = rng.normal(0, 0.2, 100_000)
    # 2.8 x .2 / sqrt(100)
    smallest = smallest_difference(spread[:100] / spread[:100].std(ddof=1) * 0.2)
    assert smallest == pytest.approx(0.056, rel=1e-3)
    hits = 0
    for trial in range(300):
        differences = spread[1000 + 100 * trial :][:100] + smallest
        hits += compare(np.zeros(100), differences, 400).p_value < 0.05
    assert 0.72 <= hits / 300 <= 0.88


def test_one_query_shows_no_difference_however_large():
    assert smallest_difference(np.array([0.9])) == float("inf")
    # Nor do five: see the p-value of five wins in five.
    assert smallest_difference(np.full(5, 0.9)) == float("inf")
    assert smallest_difference(np.full(6, 0.9)) == 0.0


def test_other_queries_cannot_be_compared():
    with pytest.raises(ValueError, match="the same queries"):
        compare(np.zeros(3), np.zeros(4), 100)


def test_queries_that_do_not_change_do_not_change_the_p_value():
    few = compare(np.zeros(5), np.ones(5), 50_000)
    many = compare(np.zeros(500), np.repeat([1.0, 0.0], [5, 495]), 50_000)
    assert many.p_value == pytest.approx(few.p_value, abs=0.004)


def test_holm_by_hand():
    # Sorted .01, .02, .03, .04 by 4, 3, 2, 1: .04, .06, .06, .04, and never less than before.
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []


def test_holm_keeps_the_share_of_false_alarms_among_many_tests():
    rng = np.random.default_rng(3)
    alarms = [min(holm(rng.random(20).tolist())) < 0.05 for _ in range(2000)]
    assert np.mean(alarms) <= 0.065
    raw = [rng.random(20).min() < 0.05 for _ in range(2000)]
    assert np.mean(raw) > 0.5


@pytest.mark.parametrize(
    ("times", "found"), [(1.96, 0.5), (2.8016, 0.8), (3.605, 0.95), (0, 0.025)]
)
def test_power_by_hand(times, found):
    # A difference of so many standard errors; .3 / sqrt(400) = .015.
    assert power(times * 0.015, 0.3, 400) == pytest.approx(found, abs=1e-3)


def test_power_without_spread():
    assert power(0.01, 0.0, 50) == 1.0 and power(0.0, 0.0, 50) == 0.0


def test_the_smallest_difference_is_that_of_80_percent_power():
    differences = np.random.default_rng(4).normal(0, 0.25, 300)
    smallest = smallest_difference(differences)
    assert power(smallest, differences.std(ddof=1), 300) == pytest.approx(0.8)


def test_one_seed_each_is_a_paired_comparison():
    rng = np.random.default_rng(0)
    base, other = rng.random((2, 60))
    assert compare_seeds(base[None], other[None], 500, 3) == compare(base, other, 500, 3)
    assert interval_of_seeds(base[None], 500, 3) == interval(base, 500, 3)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(1)
    base = rng.random(400)
    steady = np.stack([base + 0.02, base + 0.02, base + 0.02])
    found = compare_seeds(base[None], steady, 2000)
    assert found.delta == pytest.approx(0.02) and found.ci_low == pytest.approx(0.02)
    # The same mean from seeds that come out .0, .02 and .04: standard error .02 / sqrt(3), times
    # 4.3, the 97.5 % point of t with 2 degrees of freedom.
    apart = np.stack([base, base + 0.02, base + 0.04])
    found = compare_seeds(base[None], apart, 20_000)
    assert found.delta == pytest.approx(0.02)
    half = 4.303 * 0.02 / np.sqrt(3)
    assert found.ci_high - found.delta == pytest.approx(half, rel=0.06)
    assert found.p_value == pytest.approx(0.2254, abs=0.01)  # of t = sqrt(3)
    low, high = interval_of_seeds(apart, 2000)
    assert low < interval(base + 0.02, 2000)[0] and high > interval(base + 0.02, 2000)[1]


def test_seeds_that_do_nothing_are_seldom_called_better():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        queries = rng.random(80)
        runs = queries + rng.normal(0, 0.03, (6, 1)) + rng.normal(0, 0.1, (6, 80))
        alarms += compare_seeds(runs[:3], runs[3:], 400).p_value < 0.05
    assert alarms / 300 <= 0.07


def test_seeds_on_other_queries_cannot_be_compared():
    with pytest.raises(ValueError, match="the same queries"):
        compare_seeds(np.zeros((2, 3)), np.zeros((1, 4)), 100)


def test_few_seeds_show_only_what_their_interval_leaves_out():
    base = np.random.default_rng(1).random(400)
    # As above: 4.303 standard errors of .02 / sqrt(3) to be significant, .842 to be it mostly.
    apart = np.stack([base, base + 0.02, base + 0.04])
    found = compare_seeds(base[None], apart, 20_000)
    smallest = visible(found, base[None], apart)
    assert smallest == pytest.approx((4.303 + 0.842) * 0.02 / np.sqrt(3), rel=0.06)
    one = apart[:1] + np.random.default_rng(2).normal(0, 0.1, 400)
    found = compare_seeds(base[None], one, 500)
    assert visible(found, base[None], one) == smallest_difference(one[0] - base)
    few = compare_seeds(base[None, :5], apart[:, :5], 500)
    assert visible(few, base[None, :5], apart[:, :5]) == float("inf")


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_what_would_show_is_never_inside_the_interval(seeds):
    rng = np.random.default_rng(3)

    def runs(gain):
        return gain + rng.normal(0, 0.03, (seeds, 1)) + rng.normal(0, 0.1, (seeds, 80))

    said = []
    for base, other in [(runs(0), runs(0)) for _ in range(200)]:
        found = compare_seeds(base, other, 400)
        said.append(visible(found, base, other))
        assert said[-1] > (found.ci_high - found.ci_low) / 2
    if seeds == 8:  # so many know their own spread
        gain = np.median(said)
        hits = [compare_seeds(runs(0), runs(gain), 400).p_value < 0.05 for _ in range(200)]
        assert 0.7 <= np.mean(hits) <= 0.9
