import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from finetune.evaluation.artifacts import Outcome
from finetune.evaluation.thresholds import Matches, calibrate, matches_of, quality
from finetune.records import Scored
from finetune.sets import EvaluationSet, ScoredSet


def drawn(n, seed, apart=1.0):
    """Cosines of matches, a third of all, and of others, which overlap."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 1 / 3).astype(float)
    return Matches(rng.normal(0.5 + 0.2 * apart * labels, 0.1), labels)


def test_quality_by_hand():
    found = quality(Matches(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 1.0])), 0.7)
    # .9, .8 and .7 are called matches: two of three are, of three that there are
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (found.f1, found.n, found.matches) == (pytest.approx(2 / 3), 4, 3)


@pytest.mark.parametrize("at", [0.3, 0.55, 0.62, 2.0])
def test_quality_as_scikit_learn_has_it(at):
    matches = drawn(500, 1)
    called, found = matches.cosines >= at, quality(matches, at)
    for name, reference in (("f1", f1_score), ("precision", precision_score),
                            ("recall", recall_score)):  # fmt: skip
        expected = reference(matches.labels, called, zero_division=0)
        assert getattr(found, name) == pytest.approx(expected)


def test_a_threshold_is_chosen_on_one_half_and_measured_on_the_other():
    select, report = drawn(400, 1), drawn(300, 2)
    found = calibrate(select, report)
    assert found["select"]["n"] == 400 and found["report"]["n"] == 300
    assert found["report"]["f1"] == quality(report, found["threshold"]).f1
    # No other threshold is better than the oracle's.
    best = max(quality(report, at).f1 for at in np.unique(report.cosines))
    assert found["oracle"]["f1"] == pytest.approx(best) and best >= found["report"]["f1"]
    best = max(quality(select, at).f1 for at in np.unique(select.cosines))
    assert best - 0.015 < found["select"]["f1"] <= best


def test_the_threshold_is_the_middle_of_the_good_ones():
    cosines = np.array([0.9, 0.8, 0.3, 0.2])
    # From .8 on all matches are called and nothing else; so it is from .3 on, exclusive.
    found = calibrate(Matches(cosines, np.array([1.0, 1.0, 0.0, 0.0])), drawn(50, 1))
    assert found["threshold"] == 0.8 and found["select"]["f1"] == 1.0
    # With many matches, a point of F1 spans from the 120th to the 122nd of them.
    many = Matches(np.linspace(0.9, 0.5, 200), np.repeat([1.0, 0.0], [121, 79]))
    found = calibrate(many, drawn(50, 1))
    assert found["threshold"] == pytest.approx(many.cosines[120], abs=0.003)


def test_held_out_f1_is_within_a_point_of_the_oracles():
    gaps = []
    for seed in range(40):
        found = calibrate(drawn(2000, seed), drawn(2000, 100 + seed))
        gaps.append(found["oracle"]["f1"] - found["report"]["f1"])
    # The oracle knows the report half, and its own luck is part of the gap.
    assert min(gaps) >= 0 and np.mean(gaps) < 0.008 and np.percentile(gaps, 95) < 0.02


def test_nothing_to_tell_apart():
    one = Matches(np.array([0.9, 0.8]), np.array([1.0, 1.0]))
    assert calibrate(one, drawn(50, 1)) is None and calibrate(drawn(50, 1), one) is None
    assert calibrate(Matches(np.array([]), np.array([])), one) is None


def test_what_may_match_of_queries():
    outcome = Outcome(
        ("q1", "q2"), {}, (("a", "b"), ("c", "d")), (), ((0.9, 0.5), (0.8, 0.7)),
        ({"b": 0.5}, {"far": 0.1}),
    )  # fmt: skip
    each = EvaluationSet("s", {}, {}, {})
    found = matches_of(outcome, each)
    # The answer that is not among the first documents counts too.
    assert sorted(zip(found.cosines, found.labels, strict=True)) == [
        (0.1, 1.0), (0.5, 1.0), (0.7, 0.0), (0.8, 0.0), (0.9, 0.0)
    ]  # fmt: skip
    assert matches_of(Outcome(("q1",), {}, (("a",),), (), ((9.0,),)), each) is None, "BM25"


def test_what_may_match_of_pairs():
    def pairs(*scores):
        return ScoredSet("s", tuple(Scored(f"p{n}", "", "", s, "") for n, s in enumerate(scores)))

    outcome = Outcome(("p0", "p1"), {}, (), (0.9, 0.4))
    found = matches_of(outcome, pairs(1.0, 0.0))
    assert found.cosines.tolist() == [0.9, 0.4] and found.labels.tolist() == [1.0, 0.0]
    assert matches_of(outcome, pairs(5.0, 0.0)) is None, "graded"
