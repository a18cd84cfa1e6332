"""Score rows, slices and examples."""

import dataclasses

import numpy as np
from synthetic import EVIL, SETTINGS, make_set

from finetune.evaluation.artifacts import Outcome
from finetune.records import Scored
from finetune.report.examples import changed
from finetune.report.facts import in_order, read_outcomes
from finetune.report.gates import Status, judge
from finetune.report.scores import by_length, measure, slices
from finetune.sets import ScoredSet


def test_rows(facts):
    rows = measure(read_outcomes(facts), SETTINGS.samples, 42)
    known = {(row.artifact, row.set, row.metric): row for row in rows}
    base, tuned = (known[name, "statutes", "ndcg@10"] for name in ("base", "tuned"))
    assert base.delta is None and base.p_value is None
    assert known["bm25", "statutes", "ndcg@10"].delta is None
    assert np.isclose(tuned.delta, tuned.value - base.value)
    assert tuned.ci_low < tuned.value < tuned.ci_high
    assert tuned.p_value < 0.05
    assert known["tuned", "statutes", "recall@100"].p_value == 1.0
    assert tuned.delta_low < tuned.delta < tuned.delta_high
    # Two sets are compared, so that the smaller of two equal p-values counts twice.
    assert tuned.p_holm == 2 * tuned.p_value


def test_rows_of_slices(facts):
    rows = measure(read_outcomes(facts), SETTINGS.samples, 42)
    sliced = [row for row in rows if "/" in row.set]
    assert {row.set for row in sliced} == {
        f"{name}/{kind}"
        for name in ("statutes", "statutes-traditional")
        for kind in ("family", "labour")
    }
    assert {row.metric for row in sliced} == {"ndcg@10"}
    whole = {(r.artifact, r.set): r.value for r in rows if r.metric == "ndcg@10"}
    halves = [whole["tuned", f"statutes/{kind}"] for kind in ("family", "labour")]
    assert np.isclose(np.mean(halves), whole["tuned", "statutes"])
    # Slices are a family of their own: the p-values of the sets do not know how many there are.
    assert all(row.p_holm >= row.p_value for row in sliced if row.p_value is not None)
    assert max(row.p_holm for row in sliced if row.artifact == "tuned") == 4 / 2001


def test_the_domains_set_and_the_base_come_first(facts):
    outcomes = read_outcomes(facts)
    assert list(outcomes) == ["bm25", "base", "tuned", "onnx-fp32", "onnx-int8-dynamic"]
    assert list(outcomes["base"]) == ["statutes", "statutes-traditional"]
    assert in_order(["x", "tuned", "base"]) == ["base", "tuned", "x"]


def test_slices():
    ids = [f"a-{i}" for i in range(20)] + [f"b-c-{i}" for i in range(25)]
    assert {key: len(rows) for key, rows in slices(ids).items()} == {"a": 20, "b-c": 25}
    assert slices([*ids, "d-1", "plain", "-2"]).keys() == {"a", "b-c"}, "too few, no prefix"
    assert slices(ids[:20]) == {}, "one prefix is the set"
    assert slices([str(i) for i in range(100)]) == {}
    many = [f"{kind}-{i}" for kind in range(13) for i in range(20)]
    assert slices(many) == {}, "more than 12 are no kinds"
    assert len(slices(many[:240])) == 12


def test_examples(facts):
    outcomes = read_outcomes(facts)
    base, tuned = outcomes["base"]["statutes"], outcomes["tuned"]["statutes"]
    rose, fell = changed(base, tuned, make_set())
    gains = [example.tuned - example.base for example in rose]
    assert len(rose) == 5 and gains == sorted(gains, reverse=True)
    assert gains[0] == (tuned.metrics["ndcg@10"] - base.metrics["ndcg@10"]).max()
    assert all(example.tuned < example.base for example in fell)
    first = rose[0]
    gold = make_set().corpus[f"d{first.id}"]
    assert EVIL in first.query and first.measure == "NDCG@10"
    assert first.lines == (("answer", gold), ("base puts first", gold), ("tuned puts first", gold))


def test_examples_of_pairs_are_those_whose_rank_changed():
    pairs = tuple(
        Scored(f"p{n}", f"甲{n}", f"乙{n}", float(score), "s")
        for n, score in enumerate([0, 1, 2, 3])
    )
    # ranks by score 1 to 4 of 4; p0 and p3 change places, and then p1 and p2 as well
    base = Outcome(("p0", "p1", "p2", "p3"), {}, (), (0.9, 0.2, 0.3, 0.1))
    tuned = Outcome(("p0", "p1", "p2", "p3"), {}, (), (0.1, 0.3, 0.2, 0.9))
    rose, fell = changed(base, tuned, ScoredSet("s", pairs))
    assert [(each.id, each.base, each.tuned) for each in rose] == [("p0", 0.25, 1), ("p3", 0.25, 1)]
    assert [(each.id, each.base, each.tuned) for each in fell] == [("p1", 1, 0.75), ("p2", 1, 0.75)]
    assert rose[0].query == "甲0" and "rank by cosine" in rose[0].measure
    assert rose[0].lines == (
        ("other text", "乙0"), ("score", "0"), ("cosine of base, of tuned", "0.900, 0.100")
    )  # fmt: skip


def test_a_set_of_the_other_shape_is_no_part_of_the_int8_gate(facts):
    values = np.linspace(0.2, 0.8, 40)
    ids = tuple(f"q{n}" for n in range(40))
    sets = {"own": Outcome(ids, {"spearman": values, "ap": values}, ()),
            "general": Outcome(ids, {"ndcg@10": values}, ())}  # fmt: skip
    lost = {"own": sets["own"], "general": Outcome(ids, {"ndcg@10": values - 0.1}, ())}
    (gate,) = judge({"onnx-fp32": sets, "onnx-int8-dynamic": lost}, facts)
    assert (gate.status, gate.value, gate.n) == (Status.passed, 0.0, 40)
    assert "INT8 changes Spearman" in gate.detail and "40 pairs" in gate.detail


def test_no_examples_where_nothing_changed(facts):
    base = read_outcomes(facts)["base"]["statutes"]
    assert changed(base, base, make_set()) == ([], [])


def test_scores_by_length_of_the_vector(facts):
    rows = measure(read_outcomes(facts), SETTINGS.samples, 42)
    assert by_length(rows) == []
    cut = [
        dataclasses.replace(row, artifact=f"{row.artifact}@{dim}", value=row.value / 2)
        for row in rows for dim in (64, 128) if row.artifact in ("tuned", "onnx-fp32")
    ]  # fmt: skip
    first, second = by_length([*rows, *cut])
    assert (first.set, second.set) == ("statutes", "statutes-traditional")
    assert first.dims == ["whole", "128", "64"] and list(first.rows) == ["tuned", "onnx-fp32"]
    whole, half, _ = first.rows["tuned"]
    assert (whole.artifact, half.artifact) == ("tuned", "tuned@128")
    assert half.value == whole.value / 2


def test_whole_vectors_come_before_cut_ones_and_longer_before_shorter():
    names = ["onnx-fp32@64", "tuned@64", "tuned@128", "base", "onnx-fp32", "tuned"]
    assert in_order(names) == [
        "base", "tuned", "tuned@128", "tuned@64", "onnx-fp32", "onnx-fp32@64"
    ]  # fmt: skip
