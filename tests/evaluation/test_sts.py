import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, precision_recall_curve

from finetune.evaluation.statistics import compare, interval
from finetune.evaluation.sts import (
    average_precision,
    best_f1,
    ranks,
    score,
    similarities,
    spearman,
    threshold,
)
from finetune.records import Scored


class Compass:
    dim = 2

    def __init__(self):
        self.prompts = set()

    def encode(self, texts, prompt="passage", *, progress=None):
        self.prompts.add(prompt)
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_cosine_of_each_pair_both_sides_as_queries():
    encoder = Compass()
    rows = [Scored("1", "0", "60", 1, "s"), Scored("2", "10", "190", 0, "s")]
    np.testing.assert_allclose(similarities(encoder, rows), [0.5, -1.0], atol=1e-6)
    assert encoder.prompts == {"query"}


@pytest.mark.parametrize(
    ("cosines", "scores", "expected"),
    [
        ([0.1, 0.2, 0.3], [1, 2, 3], 1.0),
        ([0.1, 0.2, 0.3], [3, 2, 1], -1.0),
        ([0.1, 0.2, 0.3], [1, 3, 2], 0.5),
        # ranks 1, 2, 3, 4 against 1.5, 1.5, 3.5, 3.5: 4 / sqrt(5 x 4)
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 0.894427),
    ],
)
def test_spearman_by_hand(cosines, scores, expected):
    found = spearman(np.array(cosines), np.array(scores))
    assert found.shape == (len(cosines),) and found.mean() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("cosines", "labels", "expected"),
    [
        ([0.9, 0.8, 0.7], [1, 1, 0], 1.0),
        ([0.9, 0.8, 0.7], [0, 1, 1], (1 / 2 + 2 / 3) / 2),
        # a tie is one threshold: 1 of 2 found there, then 2 of 3
        ([0.9, 0.9, 0.7], [1, 0, 1], (1 / 2 + 2 / 3) / 2),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 0.25),
    ],
)
def test_average_precision_by_hand(cosines, labels, expected):
    found = average_precision(np.array(cosines), np.array(labels, float))
    assert found.shape == (len(cosines),) and found.mean() == pytest.approx(expected)


def reference_f1(cosines, labels):
    precision, recall, _ = precision_recall_curve(labels, cosines)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))


@pytest.mark.parametrize(
    ("cosines", "labels", "f1", "where"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], 1.0, 0.75),
        # all three called alike: 2 x 2 / (3 + 2), better than none or the first two
        ([0.9, 0.8, 0.7], [0, 1, 1], 0.8, 0.7),
        # a tie is not parted: with it 2 of 3, without it nothing
        ([0.9, 0.9, 0.7, 0.1], [1, 0, 1, 0], 0.8, 0.4),
        # the first alone and the first three are as good: the higher threshold
        ([0.9, 0.8, 0.7], [1, 0, 0], 1.0, 0.85),
    ],
)
def test_best_f1_by_hand(cosines, labels, f1, where):
    cosines, labels = np.array(cosines), np.array(labels, float)
    found = best_f1(cosines, labels)
    assert found.shape == (len(cosines),) and found.mean() == pytest.approx(f1)
    assert threshold(cosines, labels) == pytest.approx(where)


@settings(deadline=None)  # scikit-learn takes its time on a busy machine
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_against_scikit_learn_and_scipy_with_ties(rows):
    cosines = np.array([cosine / 5 for cosine, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], float)
    assume(labels.any())
    assert average_precision(cosines, labels).mean() == pytest.approx(
        average_precision_score(labels, cosines)
    )
    assert best_f1(cosines, labels).mean() == pytest.approx(reference_f1(cosines, labels))
    assume(len(set(labels)) > 1 and len(set(cosines.tolist())) > 1)
    assert spearman(cosines, labels).mean() == pytest.approx(spearmanr(labels, cosines).statistic)


def test_ranks_lie_between_0_and_1_and_ties_share_one():
    assert ranks(np.array([5.0, 1.0, 3.0, 3.0])).tolist() == [0.875, 0.125, 0.5, 0.5]


def test_labels_are_scored_in_three_ways_and_other_scores_once():
    cosines = np.array([0.1, 0.2, 0.3])
    assert list(score(cosines, np.array([0.0, 1.0, 1.0]))) == [
        "spearman", "ap", "f1"
    ]  # fmt: skip
    for scores in ([0.0, 0.5, 1.0], [0.0, 2.0, 2.0], [0.0, 1.0, 5.0]):
        assert list(score(cosines, np.array(scores))) == ["spearman"]


def test_a_model_that_puts_all_texts_in_one_place_orders_nothing():
    assert spearman(np.full(4, 0.5), np.array([0.0, 1.0, 0.0, 1.0])).tolist() == [0.0] * 4


def noisy(n, scores, noise, seed=0):
    """Scores, and cosines that follow them but for noise; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, scores, n).astype(float)
    return (truth / scores + rng.normal(0, noise, n)).round(2), truth


@pytest.mark.parametrize("row", [0, 7, 23])
@pytest.mark.parametrize(
    ("values", "reference"),
    [
        (spearman, lambda cosines, labels: spearmanr(cosines, labels).statistic),
        (average_precision, lambda cosines, labels: average_precision_score(labels, cosines)),
        (best_f1, reference_f1),
    ],
)
def test_a_pairs_value_is_what_the_metric_gains_from_more_of_it(values, reference, row):
    cosines, labels = noisy(50, 2, 0.5)
    # Every pair 400 times, and this one once more.
    rows = np.append(np.repeat(np.arange(50), 400), row)
    gained = reference(cosines[rows], labels[rows]) - reference(cosines, labels)
    found = values(cosines, labels)
    assert found[row] - found.mean() == pytest.approx(400 * 50 * gained, abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "values", "reference"),
    [
        (2, spearman, lambda cosines, labels: spearmanr(cosines, labels).statistic),
        (6, spearman, lambda cosines, labels: spearmanr(cosines, labels).statistic),
        (2, average_precision, lambda cosines, labels: average_precision_score(labels, cosines)),
    ],
)
def test_intervals_are_those_of_resampled_pairs(scores, values, reference):
    n = 600
    cosines, truth = noisy(n, scores, 0.5)
    other = noisy(n, scores, 0.4)[0]  # the same truth, by the seed
    drawn = np.random.default_rng(1).integers(0, n, (400, n))
    resampled = np.array([
        (reference(cosines[rows], truth[rows]), reference(other[rows], truth[rows]))
        for rows in drawn
    ])  # fmt: skip
    found = values(cosines, truth), values(other, truth)
    width = np.ptp(interval(found[0], 2_000))
    expected = np.percentile(resampled[:, 0], [2.5, 97.5])
    np.testing.assert_allclose(interval(found[0], 2_000), expected, atol=0.15 * width)
    difference = compare(*found, 2_000)
    expected = np.percentile(resampled[:, 1] - resampled[:, 0], [2.5, 97.5])
    np.testing.assert_allclose(
        (difference.ci_low, difference.ci_high), expected, atol=0.15 * np.ptp(expected)
    )
