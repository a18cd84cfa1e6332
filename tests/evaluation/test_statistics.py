import numpy as np
import pytest
from scipy.stats import kstest

from finetune.evaluation.statistics import compare, interval, smallest_difference


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
    assert smallest == pytest.approx(0.056)
    hits = 0
    for trial in range(300):
        differences = spread[1000 + 100 * trial :][:100] + smallest
        hits += compare(np.zeros(100), differences, 400).p_value < 0.05
    assert 0.72 <= hits / 300 <= 0.88


def test_one_query_shows_no_difference_however_large():
    assert smallest_difference(np.array([0.9])) == float("inf")


def test_other_queries_cannot_be_compared():
    with pytest.raises(ValueError, match="the same queries"):
        compare(np.zeros(3), np.zeros(4), 100)
