"""Training sets beside the domain's: their rows are accounted for, and none is an evaluation's."""

import json

import pytest

from finetune.config.choices import Duplicates, Kind
from finetune.config.compose import compose
from finetune.config.pairs import Mixed
from finetune.data.leaks import LEAK, PAIR_LEAK
from finetune.data.mix import prepare_mix
from finetune.data.rows import DUPLICATE
from finetune.errors import UserError
from finetune.records import Dropped, Pair, Scored, read_json, read_jsonl
from finetune.sets import EvaluationSet, ScoredSet, all_sets, write_set

STOP = compose(["recipes=full"]).check


@pytest.fixture
def evaluated(tmp_path):
    """What the steps sets and general leave: sets that ask queries, and one that asks pairs."""
    own, general = tmp_path / "sets", tmp_path / "general"
    asked = EvaluationSet("law", {"q1": "房东不退押金？"}, {"d": "篇"}, {"q1": {"d": 1}})
    write_set(own / "select/law", asked)
    pairs = ScoredSet("sts", (Scored("p1", "甲", "乙", 1.0, "s"),))
    write_set(own / "report/sts", pairs)
    for half, query in (("select", "今天星期几"), ("report", "明天下雨吗")):
        web = EvaluationSet("web", {half: query}, {"d": "篇"}, {half: {"d": 1}})
        write_set(general / half / "web", web)
    return all_sets(own, None, general)


def mixed(path, rows, kind=Kind.pairs, columns=None):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Mixed(str(path), columns or {}, kind, 0.2, None, None)


def test_every_row_is_accounted_for_and_no_question_is_trained_on(evaluated, tmp_path):
    sets = {
        "pairs": mixed(tmp_path / "a.jsonl", [
            {"问": "房东不退押金", "答": "答"},  # a query of the select half
            {"问": "明天下雨吗？", "答": "答"},  # a query of the general set
            {"问": "乙", "答": "甲！"},  # a pair of the report half
            {"问": "甲", "答": "丙"},
            {"问": "甲", "答": "丙。"},
        ], columns={"query": "问", "positive": "答"}),
        "scored": mixed(tmp_path / "b.jsonl", [
            {"a": "丁", "b": "房东不退押金", "score": 1},
            {"a": "乙", "b": "甲", "score": 0},
            {"a": "乙", "b": "丙", "score": 0},
        ], Kind.scored),
    }  # fmt: skip
    prepare_mix(sets, STOP, evaluated, tmp_path)
    summary = read_json(tmp_path / "summary.json")
    assert summary["pairs"]["dropped"] == {
        DUPLICATE[Duplicates.punctuation]: 1, LEAK: 2, PAIR_LEAK: 1,
    }  # fmt: skip
    assert summary["scored"]["dropped"] == {LEAK: 1, PAIR_LEAK: 1}
    for name, kind in (("pairs", Pair), ("scored", Scored)):
        kept = list(read_jsonl(tmp_path / name / "train.jsonl", kind))
        dropped = list(read_jsonl(tmp_path / name / "dropped.jsonl", Dropped))
        assert summary[name]["pairs"] == len(kept) == 1
        assert summary[name]["read"] == len(kept) + len(dropped)
    collided = {row.line: row.collided_with
                for row in read_jsonl(tmp_path / "scored/dropped.jsonl", Dropped)}  # fmt: skip
    assert collided == {1: "law: query q1", 2: "sts: pair p1"}


def test_a_set_of_leaks_alone_is_an_error(evaluated, tmp_path):
    only = mixed(tmp_path / "a.jsonl", [{"query": "房东不退押金", "positive": "答"}])
    with pytest.raises(UserError, match=r"mix.law.train=.*no pair is left of 1 rows"):
        prepare_mix({"law": only}, STOP, evaluated, tmp_path)


def test_mistakes_in_all_sets_are_told_together(evaluated, tmp_path):
    bad = mixed(tmp_path / "a.jsonl", [{"a": "甲", "b": "丙", "score": "x"}], Kind.scored)
    other = mixed(tmp_path / "b.jsonl", [{"query": "问"}])
    with pytest.raises(UserError) as caught:
        prepare_mix({"own": bad, "other": other}, STOP, evaluated, tmp_path)
    first, *_, last = caught.value.problems
    assert "a.jsonl:1: score is 'x'" in first
    assert "set mix.other.columns.positive=<column>" in last
    assert not (tmp_path / "summary.json").exists()
