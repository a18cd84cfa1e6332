"""Gates, by cases worked by hand."""

import dataclasses

import numpy as np
import pytest
from synthetic import SETTINGS

from finetune.config import Distill
from finetune.evaluation.artifacts import Outcome
from finetune.records import Score
from finetune.report.gates import Status, distill, gain, general, int8, judge
from finetune.report.scores import by_question
from finetune.report.verdict import verdict

STUDENT = Distill(layers=6, vocabulary=0, teacher=None, texts=100, min_kept=0.95, min_speedup=1.8)


def outcome(values, prefix="q"):
    values = np.array(values, np.float64)
    ids = tuple(f"{prefix}{i}" for i in range(len(values)))
    return Outcome(ids, {m: values for m in ("ndcg@10", "mrr@10", "recall@100")}, ((),) * len(ids))


def spread(n):
    """Values that differ between queries but not between systems."""
    return np.tile([0.2, 0.4, 0.6, 0.8], n // 4)


@pytest.mark.parametrize(
    ("n", "change", "status"),
    [
        # Each query gains 0.1: no sign flip of 40 can be as extreme.
        (40, lambda base: base + 0.1, Status.passed),
        # Nothing changes: delta 0 does not exceed min_gain 0.
        (40, lambda base: base, Status.failed),
        (40, lambda base: base - 0.1, Status.failed),
        # One query gains x: p = 1, standard deviation x / sqrt(n), so that the set would show a
        # difference of 2.80 x / n: of .02 with x = .2 from 28 queries on, x = 1 from 140 on.
        (24, lambda base: base + np.eye(len(base))[0] * 0.2, Status.inconclusive),
        (32, lambda base: base + np.eye(len(base))[0] * 0.2, Status.failed),
        (136, lambda base: base + np.eye(len(base))[0], Status.inconclusive),
        (144, lambda base: base + np.eye(len(base))[0], Status.failed),
        # Worse in the mean, and the interval reaches above 0.
        (40, lambda b: b - np.eye(len(b))[0] + 0.5 * np.eye(len(b))[1], Status.inconclusive),
    ],
)
def test_gain(n, change, status):
    base = spread(n)
    gate = gain(base, change(base), SETTINGS, 0, "statutes", "ndcg@10")
    assert gate.status is status
    assert gate.n == n
    assert gate.value == pytest.approx((change(base) - base).mean())
    assert gate.detail.endswith(".")


def test_gain_must_exceed_min_gain():
    base = spread(40)
    settings = dataclasses.replace(SETTINGS, min_gain=0.15)
    assert gain(base, base + 0.1, settings, 0, "s", "ndcg@10").status is Status.failed
    assert gain(base, base + 0.2, settings, 0, "s", "ndcg@10").status is Status.passed


def test_gain_at_alpha_is_not_enough():
    # 4 queries that all gain: 2 of 16 sign patterns are as extreme, p is about 0.125.
    base = np.array([0.2, 0.3, 0.4, 0.5])
    assert gain(base, base + 0.1, SETTINGS, 0, "s", "ndcg@10").status is Status.inconclusive


@pytest.mark.parametrize(
    ("n", "drops", "status"),
    [
        (40, lambda n: np.zeros(n), Status.passed),
        (40, lambda n: np.full(n, -0.01), Status.passed),  # INT8 is better
        # fp32's mean is 0.5: 0.002 each is 0.4 % of it, 0.003 each 0.6 %.
        (40, lambda n: np.full(n, 0.002), Status.passed),
        (40, lambda n: np.full(n, 0.003), Status.failed),
        # INT8 is better in the mean, by one query in 40 that the others are too few to make up for.
        (40, lambda n: np.eye(n)[0] * -1.0, Status.passed),  # the whole interval is
        (40, lambda n: np.eye(n)[0] - 1.5 * np.eye(n)[1], Status.inconclusive),
        # 1 % in the mean, from one query in 40: the interval reaches down to 0.
        (40, lambda n: np.eye(n)[0] * 0.2, Status.inconclusive),
        # The same mean on 200 queries, from one of them: still nothing that the set can tell.
        (200, lambda n: np.eye(n)[0] * 1.0, Status.inconclusive),
    ],
)
def test_int8(n, drops, status):
    fp32 = spread(n)
    gate = int8(fp32, fp32 - drops(n), SETTINGS, 0, "ndcg@10")
    assert gate.status is status
    assert gate.value == pytest.approx(drops(n).mean() / 0.5)
    assert gate.threshold == 0.005


@pytest.mark.parametrize(
    ("n", "drops", "status"),
    [
        (40, lambda n: np.zeros(n), Status.passed),
        (40, lambda n: np.full(n, -0.01), Status.passed),  # better than the base
        # Half a point is allowed, of whatever the base scores.
        (40, lambda n: np.full(n, 0.0049), Status.passed),
        (40, lambda n: np.full(n, 0.0051), Status.failed),
        # No drop at all in the mean. One query up and one down: standard deviation sqrt(2 / n), and
        # a set that would show 2 points from 198 queries on.
        (192, lambda n: np.eye(n)[0] - np.eye(n)[1], Status.inconclusive),
        (204, lambda n: np.eye(n)[0] - np.eye(n)[1], Status.passed),
        # 1 point in the mean, from one query in 40 or in 200: the interval reaches down to 0.
        (40, lambda n: np.eye(n)[0] * 0.4, Status.inconclusive),
        (200, lambda n: np.eye(n)[0] * 2.0, Status.inconclusive),
    ],
)
def test_general(n, drops, status):
    base = spread(n)
    gate = general(base, base - drops(n), SETTINGS, 0, "elsewhere")
    assert gate.status is status and gate.name == "general"
    assert gate.value == pytest.approx(drops(n).mean()) and gate.threshold == 0.005
    assert gate.ci_low <= gate.value <= gate.ci_high
    assert "base on elsewhere" in gate.detail and "it may lose 0.5" in gate.detail
    assert ("so few queries show" in gate.detail) == (status is Status.inconclusive)


def test_a_set_that_cannot_tell_says_what_it_could_show():
    base = spread(192)
    gate = general(base, base + np.eye(192)[0] - np.eye(192)[1], SETTINGS, 0, "elsewhere")
    # 2.80 x sqrt(2 / 191) / sqrt(192) = 2.07 points
    assert gate.detail.endswith("(so few queries show differences from about 2.1 points on).")
    gate = general(base[:4], base[:4] - np.array([0, 0.1, -0.1, 0]), SETTINGS, 0, "elsewhere")
    assert gate.detail.endswith("(so few queries show no difference at all).")


@pytest.mark.parametrize(
    ("limit", "status"),
    [(2.5, Status.failed), (3.0, Status.inconclusive), (3.5, Status.passed), (None, None)],
)
def test_latency(facts, limit, status):
    settings = dataclasses.replace(SETTINGS, max_latency_ms=limit)
    speed = {"latency_ms": 3.0, "latency_low": 2.8, "latency_high": 3.2, "timed": 30}
    slow = {name: value + 100 for name, value in speed.items()}
    # The base is not what a service would run, nor is what it could run faster.
    speeds = {"base": slow, "tuned": slow, "onnx-fp32": slow, "onnx-int8-dynamic": speed}
    gates = judge({}, dataclasses.replace(facts, evaluate=settings, speeds=speeds))
    assert [gate.status for gate in gates] == ([] if status is None else [status])
    for gate in gates:
        assert (gate.name, gate.value, gate.threshold, gate.n) == ("latency", 3.0, limit, 30)
        assert "onnx-int8-dynamic takes 3.0 ms a query [2.8, 3.2]" in gate.detail
    assert judge({}, dataclasses.replace(facts, evaluate=settings, speeds={"base": slow})) == []


@pytest.mark.parametrize(
    ("timed", "lost", "served"),
    [
        (["onnx-fp32", "onnx-fp16"], {}, "onnx-fp32"),
        (["onnx-fp32", "onnx-int8-dynamic", "openvino-int8"], {}, "onnx-int8-dynamic"),
        (["onnx-fp32", "onnx-int8-dynamic", "onnx-int8-static"], {"onnx-int8-dynamic": 0.01},
         "onnx-int8-static"),
        (["openvino-int8"], {}, "openvino-int8"),
        (["onnx-int8-dynamic"], {"onnx-int8-dynamic": 0.01}, "tuned"),
    ],
)  # fmt: skip
def test_the_latency_is_that_of_what_the_bundle_serves(facts, timed, lost, served):
    speed = {"latency_ms": 3.0, "latency_low": 2.8, "latency_high": 3.2, "timed": 30}
    settings = dataclasses.replace(SETTINGS, max_latency_ms=10.0)
    scored = {"tuned": {"statutes": outcome(spread(40))}} | {
        name: {"statutes": outcome(spread(40) - each)} for name, each in lost.items()
    }
    speeds = dict.fromkeys(["base", "tuned", *timed], speed)
    gates = judge(scored, dataclasses.replace(facts, evaluate=settings, speeds=speeds))
    (gate,) = [gate for gate in gates if gate.name == "latency"]
    assert gate.detail.startswith(f"{served} takes 3.0 ms")


def test_a_base_that_was_kept_has_gained_nothing_whatever_its_exports_score(facts):
    # Two exports of the same weights, one query of 40 apart: few queries cannot tell, we can.
    base = spread(40)
    outcomes = {"base": {"s": outcome(base)}, "tuned": {"s": outcome(base + np.eye(40)[0] * 0.5)}}
    facts = dataclasses.replace(facts, domain_set="s", training={"improved": True})
    (gate,) = judge(outcomes, facts)
    assert gate.status is Status.inconclusive
    (gate,) = judge(outcomes, dataclasses.replace(facts, training={"improved": False}))
    assert gate.status is Status.failed and gate.detail.startswith("not improved: the guard kept")


def test_int8_of_a_model_that_finds_nothing():
    assert int8(np.zeros(40), np.zeros(40), SETTINGS, 0, "ndcg@10").status is Status.passed


def test_a_question_in_two_scripts_counts_once():
    one, other = by_question([
        (outcome([0.2, 0.4]), outcome([0.1, 0.4])),
        (outcome([0.4, 0.6]), outcome([0.4, 0.5])),
    ])  # fmt: skip
    np.testing.assert_allclose(one, [0.3, 0.5])
    np.testing.assert_allclose(other, [0.25, 0.45])


def test_artifacts_on_different_queries_are_refused():
    with pytest.raises(ValueError, match="same set"):
        by_question([(outcome([0.1]), outcome([0.1], "other"))])


def test_gates_without_their_artifacts_are_left_out(facts):
    sets = {"statutes": outcome(spread(40))}
    assert judge({"base": sets}, facts) == []
    both = {"base": sets, "tuned": sets}
    assert [g.name for g in judge(both, facts)] == ["gain"]
    facts = dataclasses.replace(facts, general_set="general")
    assert [g.name for g in judge(both, facts)] == ["gain"]
    both = {name: {**sets, "general": outcome(spread(40))} for name in both}
    assert [g.name for g in judge(both, facts)] == ["gain", "general"]
    exported = {"onnx-fp32": sets, "onnx-int8-dynamic": sets}
    assert [g.name for g in judge(exported, facts)] == ["int8"]


def exports(facts, cut=None, **lost):
    """Outcomes of 40 queries by artifact, each so much worse than fp32; and those of it cut."""
    names = {"tuned": "tuned", "fp32": "onnx-fp32", "dynamic": "onnx-int8-dynamic",
             "static": "onnx-int8-static"}  # fmt: skip
    scored = {names[key]: {"statutes": outcome(spread(40) - each)} for key, each in lost.items()}
    for key, each in (cut or {}).items():
        scored[f"{names[key]}@16"] = {"statutes": outcome(spread(40) - each)}
    gates = judge(scored, facts)
    return {gate.name: (gate.status, gate.detail) for gate in gates}


def test_without_a_published_fp32_int8_is_held_to_torch(facts):
    found = exports(facts, tuned=0.0, dynamic=0.01, static=0.0)
    assert found["int8"][0] is Status.failed and found["int8-static"][0] is Status.passed
    # Where both were scored, it is ONNX fp32, from which INT8 was made.
    assert exports(facts, tuned=-0.01, fp32=0.0, dynamic=0.0)["int8"][0] is Status.passed
    assert exports(facts, dynamic=0.01) == {}


def test_int8_is_judged_at_the_length_that_is_served(facts):
    whole = dict.fromkeys(("tuned", "fp32", "dynamic"), 0.0)
    cut = {**whole, "dynamic": 0.005}  # 1 % of fp32's mean, at 16 numbers alone
    served = dataclasses.replace(facts, dim=16)
    status, detail = exports(served, cut, **whole)["int8"]
    assert status is Status.failed
    assert detail.startswith("INT8 at 16 numbers a vector changes NDCG@10 by -1.00 % of fp32")
    status, detail = exports(facts, cut, **whole)["int8"]
    assert status is Status.passed and detail.startswith("INT8 changes")
    # A length that does not cut has no scores of its own.
    assert exports(dataclasses.replace(facts, dim=32), cut, **whole)["int8"][0] is Status.passed


def test_the_gain_is_judged_at_the_length_that_is_served(facts):
    facts = dataclasses.replace(facts, dim=16, domain_set="statutes")
    base = {"statutes": outcome(spread(40))}
    scored = {"base": base, "tuned": {"statutes": outcome(spread(40) + 0.1)},
              "tuned@16": {"statutes": outcome(spread(40) - 0.1)}}  # fmt: skip
    (gate,) = judge(scored, facts)
    assert (gate.name, gate.status) == ("gain", Status.failed)
    told = "statutes (tuned vectors cut to 16 numbers, the base's whole)"
    assert gate.detail.startswith(f"tuned against base on {told}: -10.0 points")
    scores = [Score("tuned@16", "statutes", "ndcg@10", 0.4, 40, 0.3, 0.5)]
    assert verdict(facts, scores, [gate]).startswith(f"Worse than the base on {told} by 10.0")
    whole, *_ = judge(scored, dataclasses.replace(facts, dim=None))
    assert whole.status is Status.passed and "cut to" not in whole.detail
    assert "cut to" not in verdict(dataclasses.replace(facts, dim=None), scores, [whole])


@pytest.mark.parametrize(
    ("lost", "speedup", "status"),
    [
        (np.zeros(40), 1.9, Status.passed),
        (np.full(40, -0.1), 1.8, Status.passed),  # better than its teacher
        # The teacher's mean is 0.5: 0.02 each is 4 % of it, 0.03 each 6 %.
        (np.full(40, 0.02), 1.8, Status.passed),
        (np.full(40, 0.03), 1.8, Status.failed),
        (np.full(40, 0.02), 1.79, Status.failed),
        # 6 % in the mean, from two queries of 40: the interval reaches up to 100 %.
        (np.eye(40)[0] * 0.2 + np.eye(40)[3] * 0.8 + np.eye(40)[7] * 0.2, 2.0, Status.inconclusive),
        (np.eye(40)[0] * 0.2 + np.eye(40)[3] * 0.8 + np.eye(40)[7] * 0.2, 1.0, Status.failed),
    ],
)
def test_distill(lost, speedup, status):
    teacher = spread(40)
    gate = distill(teacher, teacher - lost, speedup, STUDENT, SETTINGS, 0, "statutes")
    assert gate.status is status
    assert gate.value == pytest.approx(1 - lost.mean() / 0.5)
    assert (gate.name, gate.threshold, gate.n) == ("distill", 0.95, 40)
    assert gate.ci_low <= gate.value <= gate.ci_high


def test_a_student_is_held_to_its_teacher_and_need_not_gain(facts):
    speeds = {"base": {"texts_per_second": 100.0}, "tuned": {"texts_per_second": 190.0}}
    facts = dataclasses.replace(facts, distill=STUDENT, speeds=speeds)
    teacher, student = outcome(spread(40)), outcome(spread(40) * 0.96)
    (gate,) = judge({"base": {"statutes": teacher}, "tuned": {"statutes": student}}, facts)
    assert (gate.name, gate.status) == ("distill", Status.passed)
    assert gate.value == pytest.approx(0.96) and "1.90 times" in gate.detail


def test_a_student_that_training_did_not_improve_says_so_and_fails(facts):
    speeds = {"base": {"texts_per_second": 100.0}, "tuned": {"texts_per_second": 190.0}}
    facts = dataclasses.replace(facts, distill=STUDENT, speeds=speeds, domain_set="statutes",
                                training={"improved": False})  # fmt: skip
    sets = {"statutes": outcome(spread(40))}
    (gate,) = judge({"base": sets, "tuned": sets}, facts)
    assert (gate.name, gate.status) == ("distill", Status.failed)
    assert gate.detail.startswith("training did not improve the student: the guard kept it")
    assert "keeps 100.0 % of its teacher's" in gate.detail
    said = verdict(facts, [], [gate])
    assert said.startswith("Training did not improve the student") and "Keeps 100.0" in said
