"""The script section and its gate, by cases worked by hand."""

import dataclasses

import numpy as np
import pytest
from synthetic import SETTINGS

from finetune.evaluation.artifacts import Outcome
from finetune.report.gates import Status
from finetune.report.scripts import gap, gates, is_converted, overlap, sections


def outcome(values, top=()):
    ids = tuple(f"q{n}" for n in range(len(values)))
    return Outcome(ids, {"ndcg@10": np.array(values, np.float64)}, tuple(top))


class Run:
    evaluate = SETTINGS
    seed = 0
    domain_set = "law"


def told(outcomes):
    return sections(outcomes, ["law", "law+crossed", "law+traditional", "other"], 200, 0)


FOUND = {
    "tuned": {
        "law": outcome([1.0, 0.5], [("a", "b"), ("c", "d")]),
        "law+traditional": outcome([0.6, 0.5], [("a", "x"), ("d", "c")]),
        "law+crossed": outcome([0.8, 0.5], [("b", "a"), ("x", "y")]),
        "other": outcome([1.0]),
    }
}


def test_a_set_in_both_scripts_and_crossed():
    (row,) = told(FOUND)
    assert (row["set"], row["artifact"], row["metric"], row["n"]) == ("law", "tuned", "ndcg@10", 2)
    values = [row[name]["value"] for name in ("simplified", "traditional", "crossed")]
    assert values == pytest.approx([0.75, 0.55, 0.65])
    assert row["simplified"]["ci_low"] <= 0.75 <= row["simplified"]["ci_high"]
    assert row["gap"] == pytest.approx(0.2)
    # One and two of two documents; two and none.
    assert (row["overlap_traditional"], row["overlap_crossed"]) == (0.75, 0.5)


def test_of_a_traditional_set_the_given_one_is_the_traditional():
    renamed = {
        name.replace("traditional", "simplified"): each for name, each in FOUND["tuned"].items()
    }
    (row,) = told({"tuned": renamed})
    assert row["gap"] == pytest.approx(-0.2) and row["traditional"]["value"] == 0.75
    assert (row["overlap_traditional"], row["overlap_crossed"]) == (0.75, 0.5)
    (gate,) = gates({"tuned": renamed}, Run)
    assert gate.value == pytest.approx(-0.2)


def test_of_a_mixed_set_neither_is_the_given_one():
    mixed = {**FOUND["tuned"], "law+simplified": outcome([1.0, 1.0], [("a",), ("c",)])}
    (row,) = told({"tuned": mixed})
    assert (row["simplified"]["value"], row["traditional"]["value"]) == (1, pytest.approx(0.55))
    (gate,) = gates({"tuned": mixed}, Run)
    assert gate.value == pytest.approx(0.45)


def test_pairs_have_no_first_documents():
    assert overlap((), ()) is None
    assert overlap([("a",), ()], [("a",), ()]) == 0.5


def test_what_was_not_measured_is_left_out():
    assert told({"tuned": {"law": FOUND["tuned"]["law"]}}) == []
    assert list(gates({"base": FOUND["tuned"]}, Run)) == []
    (gate,) = gates(FOUND, Run)
    assert (gate.name, gate.threshold, gate.n) == ("script", 0.01, 2)


@pytest.mark.parametrize(
    ("differences", "status"),
    [
        (np.zeros(40), Status.passed),
        (np.full(40, 0.009), Status.passed),
        (np.full(40, 0.011), Status.failed),
        (np.full(40, -0.011), Status.failed),  # Traditional ahead is a gap too
        # 400 queries of which every other one differs by .1 this or that way: the set would show
        # a difference of 2.80 x .1 / 20 = .014, below .02, and the mean is 0.
        (np.tile([0.1, -0.1], 200), Status.passed),
        # 40 of the same: it would show .044.
        (np.tile([0.1, -0.1], 20), Status.inconclusive),
        # The mean is 2 points, the interval reaches below one.
        (np.tile([0.22, -0.18], 20), Status.inconclusive),
    ],
)
def test_the_gap(differences, status):
    traditional = np.full(len(differences), 0.5)
    settings = dataclasses.replace(SETTINGS, max_script_gap=0.01)
    gate = gap(traditional, traditional + differences, settings, 0, "law", "ndcg@10")
    assert gate.status is status and gate.value == pytest.approx(differences.mean())
    assert gate.ci_low <= gate.value <= gate.ci_high
    assert ("so few" in gate.detail) == (status is Status.inconclusive)


@pytest.mark.parametrize(
    ("name", "converted"),
    [("law", False), ("law+crossed", True), ("law+traditional", True), ("c+simplified", True),
     ("statutes-traditional", False), ("a+b", False)],
)  # fmt: skip
def test_names_of_converted_sets(name, converted):
    assert is_converted(name) is converted
