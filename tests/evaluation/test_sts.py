import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from finetune.evaluation.sts import average_precision, similarities, spearman
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
    assert spearman(np.array(cosines), np.array(scores)) == pytest.approx(expected, abs=1e-6)


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
    assert found == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_against_scikit_learn_and_scipy_with_ties(rows):
    cosines = np.array([cosine / 5 for cosine, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], float)
    assume(labels.any())
    assert average_precision(cosines, labels) == pytest.approx(
        average_precision_score(labels, cosines)
    )
    assume(len(set(labels)) > 1 and len(set(cosines.tolist())) > 1)
    assert spearman(cosines, labels) == pytest.approx(spearmanr(labels, cosines).statistic)
