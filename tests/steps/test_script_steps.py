"""The script of what is trained on and encoded, from the command line to what is published."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs
from tiny_runs import folders

from finetune import pipeline
from finetune.commands import scoring
from finetune.config.compose import compose
from finetune.data.parts import write_halves
from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.script import converter, is_traditional
from finetune.records import Mined, Pair, read_dicts, read_jsonl, write_json, write_jsonl
from finetune.script import WHOLE, OpenCC
from finetune.sets import EvaluationSet, Halves, only_set, read_halves
from finetune.steps import script as script_steps


def problems(*overrides):
    with pytest.raises(UserError) as caught:
        compose(["recipes=full", *overrides])
    return list(caught.value.problems)


@pytest.mark.parametrize(
    "line",
    ["script=keep", "script=s2t", "script=s2tw", "script=s2twp", "script=s2hk", "script=t2s",
     "script=both", "script=mix:0.5", "script=mix:1", "encode.script=t2s", "encode.script=tw2s",
     "opencc.protect=[里仁书局,台湾]", "opencc.traditional=s2hk"],
)  # fmt: skip
def test_what_can_be_typed(line):
    config = compose(["recipes=full", line])
    assert line.startswith("opencc.protect") or line.split("=")[1] in (
        config.script, config.encode.script, config.opencc.traditional
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        (["script=s2x"], "script=s2x: choose from: keep, s2t"),
        (["script=mix:half"], "expected a share of rows"),
        (["script=mix:0"], "above 0 and at most 1"),
        (["script=mix:1.5"], "above 0 and at most 1"),
        (["encode.script=s2t"], "encode.script=s2t: choose from: keep, t2s"),
        (["opencc.traditional=t2s"], "choose from: s2t"),
        (["script=both", "opencc.crossed=2"], "between 0 and 1"),
        (["opencc.crossed=0.5"], "script=keep converts no row"),
        (["script=s2tw", "encode.script=t2s"], "leave one of the two out"),
        (["opencc.protect=['']"], "holds an empty text"),
        (["evaluate.max_script_gap=2"], "at most 1"),
    ],
)
def test_what_cannot(line, phrase):
    (problem,) = problems(*line)
    assert phrase in problem


def test_a_student_is_taught_texts_as_they_are():
    with pytest.raises(UserError, match="encode.script=t2s may stay"):
        compose(["recipes=distill", "script=mix:0.5"])
    assert compose(["recipes=distill", "encode.script=t2s"]).encode.script == "t2s"


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(recipe, *more):
        return tiny_runs.overrides(tiny_model, domain, work, recipe, *more)

    return make


def steps(line):
    return {step.name: step for step in pipeline.steps_of(compose(line))}


def test_a_plan_without_conversion_is_as_it_was(arguments):
    found = steps(arguments("contrastive"))
    assert not [name for name in found if "script" in name or name == "characters"]
    assert found["train"].inputs == {"model": "base", "pairs": "mine", "select": "pool"}


def test_rows_are_converted_after_mining(arguments):
    one = steps(arguments("contrastive", "mine.rounds=2"))
    found = steps(arguments("contrastive", "mine.rounds=2", "script=mix:0.5"))
    assert found["script"].inputs == {"pairs": "mine"}
    assert found["script-2"].inputs == {"pairs": "mine-2"}
    assert found["train-2"].inputs["pairs"] == "script-2"
    assert found["train"].inputs["select"] == "script-select"
    for name in ("data", "embed", "mine", "export-base"):  # nothing is mined anew
        assert (found[name].settings, found[name].inputs) == (one[name].settings, one[name].inputs)
    warm = steps(arguments("full", "generate=identity", "generate.use=warmup", "script=both"))
    assert warm["script-warmup"].inputs == {"pairs": "generate"}
    assert warm["script"].inputs == {"pairs": "data"}
    merged = steps(arguments("full", "merge=interpolate", "script=both"))
    assert merged["merge"].inputs["select"] == "script-merge-pool"
    assert merged["script-merge-pool"].inputs == {"select": "merge-pool"}


def test_where_all_is_converted_everything_after_reads_it(arguments):
    found = steps(arguments("contrastive", "merge=interpolate", "script=s2tw"))
    assert found["embed"].inputs["pairs"] == found["report"].inputs["data"] == "script"
    for name in ("corpus", "embed", "pool", "merge-pool", "evaluate-base", "evaluate", "report"):
        assert found[name].inputs["sets"] == "script-sets"
    assert found["data"].inputs == {"sets": "sets"}  # leaks are looked for in what was given
    assert found["export-base"].inputs["sets"] == "sets"  # shared with other runs of the base


def test_asking_twice_costs_no_more(arguments):
    share = compose(["recipes=full"]).train.guard_share
    found = steps(arguments("full", "script=mix:0.5"))["pool"]
    assert found.settings["guard_share"] == pytest.approx(share * 6 / 7)


def test_runs_that_mix_differently_share_what_the_base_gets(arguments):
    lines = [
        arguments("contrastive", *more)
        for more in (
            ["evaluate.scripts=true"],
            ["script=mix:0.5"],
            ["script=both", "opencc.crossed=1"],
        )
    ]
    found = [folders(line)["evaluate-base"] for line in lines]
    assert found[0] == found[1] == found[2]


def test_a_dictionary_that_is_none_ends_before_any_work(arguments, tmp_path):
    line = arguments("full", "script=both", f"opencc.dictionary={tmp_path}/none.txt")
    with pytest.raises(UserError, match=r"none.txt: no such file"):
        pipeline.run(compose(line))


def test_an_entry_at_odds_with_a_protected_word_is_told(arguments, tmp_path, caplog):
    (tmp_path / "words.txt").write_text("软件\t軟體\n劳动合同法\t勞工法\n", "utf-8")
    line = arguments("full", "script=both", f"opencc.dictionary={tmp_path}/words.txt",
                     "opencc.protect=[劳动合同法]")  # fmt: skip
    pipeline.resolve(compose(line))
    (told,) = [record.getMessage() for record in caplog.records]
    assert "the entry 劳动合同法 is left out, there and back: opencc.protect has 劳动合同法" in told


@pytest.fixture(scope="module")
def mixed(arguments, tmp_path_factory):
    """A run on rows in both scripts, whose model learned the characters first."""
    run_dir = tmp_path_factory.mktemp("mixed") / "run"
    line = arguments("contrastive", "script=mix:0.5", "opencc.crossed=0.2",
                     "encode.add_characters=true", f"run_dir={run_dir}")  # fmt: skip
    return run_dir, pipeline.run(compose(line)), folders(line)


def test_a_negative_is_in_the_script_of_its_positive(mixed):
    rows = list(read_jsonl(mixed[2]["script"] / "train.jsonl", Mined))
    converted = [row for row in rows if row.source.endswith("+s2tw")]
    crossed = [row for row in rows if row.source.endswith("-crossed")]
    assert len(converted) > 10 and crossed
    there = converter("s2tw")
    for row in converted:
        assert all(there(text) == text for text in (row.query, row.positive, *row.negatives))
    for row in crossed:
        assert there(row.query) == row.query
    counts = mixed[1]["data"]["script"]
    assert counts["rows"] == len(rows) and counts["setting"] == "mix:0.5"
    assert counts["converted"] == len(converted) + len(crossed)
    assert counts["crossed"] == len(crossed)


def test_the_guard_asks_in_both_scripts(mixed):
    once, twice = (only_set(mixed[2][name]) for name in ("pool", "script-select"))
    assert len(once.queries) < len(twice.queries) <= 2 * len(once.queries)
    assert any(map(is_traditional, twice.queries.values()))


def test_the_report_tells_the_scripts(mixed):
    run_dir, report, _ = mixed
    rows = {row["artifact"]: row for row in report["scripts"]}
    assert {"bm25", "base", "tuned", "onnx-fp32", "onnx-int8-dynamic"} == set(rows)
    scores = {(row["artifact"], row["set"]): row["value"] for row in report["scores"]
              if row["metric"] == "ndcg@10"}  # fmt: skip
    tuned = rows["tuned"]
    for script, name in (("simplified", "dev"), ("traditional", "dev+traditional"),
                         ("crossed", "dev+crossed")):  # fmt: skip
        assert tuned[script]["value"] == pytest.approx(scores["tuned", name])
    assert tuned["gap"] == pytest.approx(
        tuned["simplified"]["value"] - tuned["traditional"]["value"]
    )
    assert tuned["overlap_traditional"] > rows["base"]["overlap_traditional"]
    assert "script" in {gate["name"] for gate in report["gates"]}
    page = (run_dir / "report.html").read_text("utf-8")
    assert "<h2>Scripts</h2>" in page and "<h2>Tokens</h2>" in page
    assert not [row["set"] for row in report["scores"] if "+" in row["set"] and "/" in row["set"]]


def test_the_characters_reach_the_bundle(mixed):
    run_dir, report, _ = mixed
    added = report["tokens"]["added"]
    assert len(added) > 10 and added["離"] == "离"
    content = json.loads((run_dir / "bundle/tokenizer.json").read_text("utf-8"))
    assert set(added) <= content["model"]["vocab"].keys()
    unknown = report["tokens"]["unknown"]
    assert unknown["traditional"]["characters"] == unknown["simplified"]["characters"] == 0
    assert "離 (离)" in (run_dir / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def encoded(arguments, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("encoded") / "run"
    line = arguments("contrastive", "encode.script=tw2s", f"run_dir={run_dir}")
    return run_dir, pipeline.run(compose(line)), folders(line)


def test_conversion_at_encode_time_gives_both_scripts_the_same_results(encoded):
    rows = {row["artifact"]: row for row in encoded[1]["scripts"]}
    for artifact in ("base", "tuned", "onnx-fp32"):
        row = rows[artifact]
        assert row["gap"] == pytest.approx(0, abs=1e-6), artifact
        assert row["overlap_traditional"] == row["overlap_crossed"] == 1


def test_conversion_is_part_of_what_is_published(encoded, domain, tmp_path):
    run_dir, report, _ = encoded
    assert BundleInfo.read(run_dir / "bundle").script == "tw2s"
    texts = ["离婚财产", "離婚財產"]
    one, other = OnnxEncoder.load(run_dir / "bundle", "fp32").encode(texts)
    np.testing.assert_array_equal(one, other)
    dev = shutil.copytree(domain / "dev", tmp_path / "dev")
    there = converter("s2tw")
    for name in ("queries", "corpus"):
        path = dev / f"{name}.jsonl"
        rows = [{"id": row["id"], "text": there(row["text"])} for row in read_dicts(path)]
        tiny_runs.write_rows(path, rows)
    for artifact, precision in ((run_dir / "model", None), (run_dir / "bundle", "fp32")):
        values = [scoring.evaluate(artifact, [folder], "report", precision)[0].value
                  for folder in (domain / "dev", dev)]  # fmt: skip
        assert values[0] == values[1]
        (tuned,) = [row["value"] for row in report["scores"] if row["metric"] == "ndcg@10"
                    and row["artifact"] == "tuned" and row["set"] == "dev"]  # fmt: skip
        assert values[0] == pytest.approx(tuned, abs=1e-6)


def test_a_base_tuned_for_converted_texts_is_told(encoded, arguments, caplog):
    path = f"model.path={encoded[0]}/model"
    pipeline.resolve(compose(arguments("full", path, "encode.script=tw2s")))
    assert not caplog.records
    pipeline.resolve(compose(arguments("full", path)))
    assert "tuned with encode.script=tw2s, and this run has keep" in caplog.text


def test_the_card_tells_users_of_the_library_to_convert(encoded):
    card = (encoded[0] / "README.md").read_text("utf-8")
    assert 'convert = OpenCC("tw2s").convert' in card
    assert "must convert queries and passages first" in card


@pytest.mark.parametrize("name", WHOLE)
def test_rows_and_evaluation_sets_are_converted_alike(tmp_path, name):
    convert = converter(name)
    query, answer = ("卫生间里", "软件") if name != "t2s" else ("衛生間裡", "軟件")
    each = EvaluationSet("dev", {"q": query}, {"d": answer}, {"q": {"d": 1}})
    write_halves(tmp_path, Halves((each,), (each,)))
    write_jsonl(tmp_path / "train.jsonl", [Pair("p", query, answer, "s")])
    write_json(tmp_path / "summary.json", {})
    settings = {"script": name, "opencc": OpenCC("s2tw", [], None, 0.0), "encode": "keep",
                "rows": "pairs", "seed": 1, "measured": False}  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    script_steps.script(settings, {"pairs": tmp_path}, out)
    script_steps.script_sets(settings, {"sets": tmp_path}, out)
    (row,) = read_jsonl(out / "train.jsonl", Pair)
    assert (row.query, row.positive) == (convert(query), convert(answer)) != (query, answer)
    for (made,) in read_halves(out):
        assert (made.queries, made.corpus) == ({"q": row.query}, {"d": row.positive})


def test_uniform_conversion(arguments):
    line = arguments("full", "script=s2tw", "until=script", "evaluate.scripts=true")
    pipeline.run(compose(line))
    found = folders(line)
    there = converter("s2tw")
    for row in read_jsonl(found["script"] / "train.jsonl", Pair):
        assert there(row.query) == row.query and there(row.positive) == row.positive
    (select,), report = read_halves(found["script-sets"])
    assert [each.name for each in report] == ["dev", "dev+crossed", "dev+simplified"]
    assert all(there(query) == query for query in select.queries.values())
    line = arguments("full", "script=s2tw", "until=script")
    pipeline.run(compose(line))
    assert [each.name for each in read_halves(folders(line)["script-sets"]).report] == ["dev"]


def test_a_run_in_one_script_can_be_asked_for_the_other(arguments):
    found = steps(arguments("full", "evaluate.scripts=true"))
    assert found["report"].inputs["sets"] == "script-sets"
    assert "script" not in found and found["train"].inputs["pairs"] == "data"
    found = steps(arguments("full", "script=mix:0.5", "evaluate.scripts=false"))
    assert "script-sets" not in found and "script" in found


def test_scored_pairs_in_both_scripts(tiny_model, tmp_path):
    domain = tiny_runs.learnable_scores(tmp_path / "scores", tiny_model)
    line = tiny_runs.overrides(tiny_model, domain, tmp_path, "cosent", "script=both",
                               "train.epochs=1", "export.precisions=[fp32]",
                               f"run_dir={tmp_path}/run")  # fmt: skip
    report = pipeline.run(compose(line))
    counts = report["data"]["script"]
    assert counts["rows"] == 320 and 200 < counts["converted"] <= 320
    rows = {row["artifact"]: row for row in report["scripts"]}
    assert set(rows) == {"base", "tuned", "onnx-fp32"}
    assert rows["tuned"]["metric"] == "spearman" and rows["tuned"]["overlap_crossed"] is None
    select = only_set(folders(line)["script-select"])
    once = only_set(folders(line)["pool"])
    assert len(once.pairs) < len(select.pairs) <= 2 * len(once.pairs)
