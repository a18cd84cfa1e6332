"""Mixed sets are in the script of the domain's rows."""

import pytest
import tiny_runs
from tiny_runs import folders

from finetune import pipeline
from finetune.config.compose import compose
from finetune.disk import number
from finetune.inference.script import converter, is_traditional
from finetune.mining import known_answers
from finetune.records import Pair, Scored, normalised, read_json, read_jsonl, read_known
from finetune.training import gradcache

THERE = converter("s2tw")
PAIRS = [{"query": f"老板不发工资怎么办{n}", "positive": f"劳动报酬应当支付{n}"} for n in range(60)]
SCORES = [{"a": f"房东不退押金{n}", "b": f"离婚财产怎么分{n}", "score": n % 2} for n in range(60)]


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")
    for name, rows in (("pairs", PAIRS), ("scores", SCORES)):
        tiny_runs.write_rows(work / f"{name}.jsonl", rows)

    def make(*more):
        return tiny_runs.overrides(
            tiny_model, domain, work, "full", "mix=[custom,general]", "train.epochs=1",
            f"mix.custom.train={work}/pairs.jsonl", f"mix.general.train={work}/scores.jsonl",
            "mix.general.kind=scored", "+loss@mix.general.loss=cosent", *more,
        )  # fmt: skip

    return make


def steps(line):
    return {step.name: step for step in pipeline.steps_of(compose(line))}


@pytest.mark.parametrize(
    "more", ["script=mix:0.5", "script=both", "script=s2tw", "encode.script=t2s"]
)
def test_training_and_report_read_them_converted(arguments, more):
    found = steps(arguments(more))
    assert found["script-mix"].inputs == {"mixed": "mix"}
    assert found["mix"].inputs == {"sets": "sets"}  # leaks are looked for in either script
    assert found["train"].inputs["mixed"] == found["report"].inputs["mixed"] == "script-mix"
    assert list(found).index("script-mix") < list(found).index("train")


def test_without_conversion_they_are_read_as_they_are(arguments):
    found = steps(arguments())
    assert "script-mix" not in found and found["train"].inputs["mixed"] == "mix"
    without = [each for each in arguments("script=both") if "mix" not in each]
    assert "script-mix" not in steps(without)


def rows(folder):
    return (list(read_jsonl(folder / "custom/train.jsonl", Pair)),
            list(read_jsonl(folder / "general/train.jsonl", Scored)))  # fmt: skip


def made(line):
    pipeline.run(compose([*line, "until=script-mix"]))
    return folders(line)["script-mix"]


def test_half_of_each_set_is_converted(arguments):
    folder = made(arguments("script=mix:0.5", "opencc.crossed=0.2"))
    summary = read_json(folder / "summary.json")
    for name, own in zip(("custom", "general"), rows(folder), strict=True):
        counts = summary[name]["script"]
        other = [row for row in own if "+s2tw" in row.source]
        assert len(own) == counts["rows"] == summary[name]["pairs"] == 60
        assert 15 < len(other) == counts["converted"] < 45
        assert 0 < counts["crossed"] < len(other)
        for row in other:
            first, second = (text for _, text in row.prompted)
            assert is_traditional(first)
            assert is_traditional(second) != row.source.endswith("-crossed")
    # In either script an answer is one.
    known = {(pair.query, pair.positive) for pair in read_known(folder / "custom")}
    converted = {(THERE(row["query"]), THERE(row["positive"])) for row in PAIRS}
    trained = {(row.query, row.positive) for row in rows(folder)[0]}
    assert converted <= known | trained


def test_with_both_each_row_is_there_twice(arguments):
    pairs, scored = rows(made(arguments("script=both")))
    assert len(pairs) == len(scored) == 120
    assert {row.query for row in pairs} == {
        text for row in PAIRS for text in (row["query"], THERE(row["query"]))
    }
    assert {row.score for row in scored if is_traditional(row.a)} == {0, 1}


@pytest.mark.parametrize(("more", "traditional"), [("script=s2tw", True), ("encode.script=t2s", 0)])
def test_where_all_is_converted_they_are_too(arguments, more, traditional):
    for own in rows(made(arguments(more))):
        assert len(own) == 60
        for row in own:
            assert {is_traditional(text) for _, text in row.prompted} == {bool(traditional)}


def test_a_run_trains_on_them_and_tells(arguments, tmp_path):
    report = pipeline.run(compose(arguments("script=mix:0.5", f"run_dir={tmp_path}/run")))
    told = report["data"]["mixed"]
    assert told["custom"]["script"]["setting"] == "mix:0.5"
    assert told["general"]["script"]["converted"] > 15
    assert report["data"]["script"]["rows"] == 64
    assert report["training"]["steps"] == 14  # 8 of its own, and a fifth each of the others


def test_training_knows_what_answers_a_query_of_a_mixed_set_in_either_script(
    arguments, monkeypatch
):
    line = arguments("script=s2tw", "opencc.crossed=1")
    folder, found, seen = made(line), folders(line), []

    def train(model, rows, select, plan, out, others, mixed):
        seen.extend(others)

    monkeypatch.setattr(gradcache.training, "train", train)
    monkeypatch.setattr(gradcache, "within_memory", lambda chunk, *_: chunk)  # there is no model
    step = steps(line)["train"]
    inputs = {"model": folder, "mixed": folder, "pairs": found["data"],
              "select": found["sets"] / "select"}  # fmt: skip
    gradcache.train([Pair("1", "甲", "乙", "s")], {**step.settings, **step.outside}, inputs, folder)
    query, positive = (PAIRS[0][name] for name in ("query", "positive"))
    numbers = known_answers(seen)[number(normalised(query))]
    assert {number(normalised(text)) for text in (positive, THERE(positive))} <= {*numbers.tolist()}
