"""Similarities, thresholds and false neighbours of a run."""

import json

from synthetic import make_set, outcome

from finetune import report
from finetune.report.similarity import calibrated, false_neighbours, similarity


def test_answers_that_are_farther_away_are_told_apart_better(near):
    each = make_set()
    found = similarity(report.facts.read_outcomes(near), each)
    assert found.keys() == {"base", "tuned", "onnx-int8-dynamic"}, "of BM25 no cosine is known"
    base, tuned = found["base"], found["tuned"]
    assert base["positive"]["mean"] > tuned["positive"]["mean"] + 0.2
    assert tuned["apart"] > base["apart"] + 0.1
    for part in ("positive", "negative"):
        assert sum(tuned[part]["counts"]) == 48 and len(tuned[part]["counts"]) == 40
        assert tuned[part]["p10"] < tuned[part]["mean"] < tuned[part]["p90"]


def test_apart_is_the_share_of_pairs_in_the_right_order():
    each = make_set(per_kind=1)
    found = similarity({"base": {"statutes": outcome(each, [0.9, 0.3], [0.5, 0.5])}}, each)
    assert found["base"]["apart"] == 0.5
    found = similarity({"base": {"statutes": outcome(each, [0.9, 0.5], [0.5, 0.5])}}, each)
    assert found["base"]["apart"] == 0.75, "ties count half"


def test_thresholds_reach_the_report_and_its_page(near, tmp_path):
    (tmp_path / "out").mkdir()
    content = report.build(near, tmp_path / "out")
    found = json.loads((tmp_path / "out/thresholds.json").read_text("utf-8"))
    assert found == content["thresholds"] and found.keys() == {"tuned", "onnx-int8-dynamic"}
    tuned = found["tuned"]
    assert tuned["set"] == "statutes" and 0.3 < tuned["threshold"] < 0.5
    assert tuned["report"]["n"] == 96 and tuned["report"]["f1"] > 0.9
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "How near matches lie" in page and f"{tuned['threshold']:.3f}" in page
    assert "How near" in page and "shift of absolute scores is normal" in page
    assert (tmp_path / "out/plots/similarity.svg").read_text("utf-8").count("<polyline") == 6
    assert "Tuning moves all cosines" in page and "Hardest false neighbours" in page


def test_no_threshold_where_the_select_half_was_not_scored(facts, tmp_path):
    (tmp_path / "out").mkdir()
    content = report.build(facts, tmp_path / "out")
    assert content["thresholds"] == {} and not (tmp_path / "out/thresholds.json").exists()
    assert calibrated(facts, {}) == {}


def test_the_hardest_false_neighbours():
    each = make_set(per_kind=2)
    found = false_neighbours(outcome(each, [0.9, 0.2, 0.4, 0.1], [0.1, 0.5, 0.5, 0.9]), each, 2)
    assert [example.id for example in found] == ["labour-001", "family-001"]
    first = found[0]
    assert first.query == each.queries["labour-001"] and first.tuned == 0.0
    assert first.lines == (
        ("nearest answer, cosine 0.100", each.corpus["dlabour-001"]),
        ("first, cosine 0.900", each.corpus["dfamily-000"]),
    )
