import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from peft import PeftModel
from safetensors.torch import load_file
from tiny_runs import folders

from finetune import model as models
from finetune import pipeline
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.records import read_dicts, read_json
from finetune.records import write_jsonl as write_rows
from finetune.sets import EvaluationSet, half, read_set, write_set
from finetune.stage import plan
from finetune.steps import core, forgetting
from finetune.training import merging


def general_set(folder: Path, model: Path, queries: int = 48) -> Path:
    """A set that the base does well on: passages share characters with what asks for them."""
    letters = tiny_runs.known_letters(model)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(letters), 6, replace=False)) for _ in range(2 * queries)]
    folder.mkdir(parents=True)
    write_rows(folder / "corpus.jsonl",
               ({"id": f"d{n}", "text": text} for n, text in enumerate(texts)))  # fmt: skip
    write_rows(folder / "queries.jsonl", (
        {"id": f"q{n}", "text": texts[n][:3] + texts[n + queries][0]} for n in range(queries)
    ))  # fmt: skip
    rows = "".join(f"q{n}\td{n}\t1\n" for n in range(queries))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture(scope="module")
def general(tiny_model, tmp_path_factory):
    return general_set(tmp_path_factory.mktemp("elsewhere") / "general", tiny_model)


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, general, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(*more, recipe="full"):
        return tiny_runs.overrides(tiny_model, domain, work, recipe,
                                   f"evaluate.general={general}", *more)  # fmt: skip

    return make


def keys(config):
    return {each.step.name: each.key for each in plan(pipeline.steps_of(config), Path("cache"))}


# --- which folder it is ---


def config_with(arguments, **changes):
    config = compose(arguments())
    for part, values in changes.items():
        new = dataclasses.replace(getattr(config, part), **values)
        config = dataclasses.replace(config, **{part: new})
    return config


def test_the_folder_beside_the_domains_is_found(tiny_model, domain, general, tmp_path):
    line = tiny_runs.overrides(tiny_model, domain, tmp_path, "full", f"paths.data={general.parent}")
    config = pipeline.resolve(compose(line))
    assert config.evaluate.general == general
    assert "evaluate-general" in keys(config)
    off = pipeline.resolve(compose([*line, "evaluate.general=null"]))
    assert off.evaluate.general is None


@pytest.mark.parametrize("data", [None, "/nowhere"])
def test_where_it_is_not_there_nothing_is_measured(arguments, data):
    folder = Path(f"{data}/general")
    config = config_with(
        arguments, paths={"data": data and Path(data)}, evaluate={"general": folder}
    )
    assert forgetting.folder_of(config) is None
    assert not [name for name in keys(config) if "general" in name]


def test_the_domains_own_folder_is_no_general_set_by_default(arguments, general):
    config = config_with(arguments, paths={"data": general.parent}, domain={"dev": general})
    assert forgetting.folder_of(config) is None


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda path, general: path / "none", "no such folder"),
        (lambda path, general: sts(path), "is a similarity set"),
        (lambda path, general: shutil.copytree(general, path / "dev"), "is called dev too"),
    ],
)
def test_a_folder_that_was_named_must_be_one(arguments, general, tmp_path, make, phrase):
    folder = make(tmp_path, general)
    with pytest.raises(UserError) as caught:
        pipeline.run(compose(arguments(f"evaluate.general={folder}")))
    (problem,) = caught.value.problems
    assert problem.startswith(f"evaluate.general={folder}: ") and phrase in problem
    assert "evaluate.general=null" in problem


def sts(folder):
    write_rows(folder / "test.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 1}])
    return folder


def test_the_statutes_sets_keep_their_names(general, tmp_path):
    pytest.importorskip("finetune.data.statutes")
    folder = shutil.copytree(general, tmp_path / "statutes-traditional")
    with pytest.raises(UserError, match="is called statutes-traditional too"):
        pipeline.resolve(compose(["recipes=full", f"evaluate.general={folder}"]))


# --- its steps ---


@pytest.mark.parametrize(
    "change",
    ["seed=7", "limit=20", "train.learning_rate=1e-4", "export.parity_texts=50",
     "merge=interpolate", "evaluate.max_general_drop=0.1", "evaluate.speed_texts=30"],
)  # fmt: skip
def test_the_bases_scores_are_those_of_every_run_of_this_base(arguments, change):
    before, after = keys(compose(arguments())), keys(compose(arguments(change)))
    shared = ["general", "export-base-general", "evaluate-base-general"]
    assert [before[name] for name in shared] == [after[name] for name in shared]
    assert before["report"] != after["report"]


def test_they_do_not_depend_on_where_the_folder_lies_nor_on_the_domain(
    arguments, general, domain, tmp_path
):
    copy = shutil.copytree(general, tmp_path / "general")
    other = shutil.copytree(domain / "dev", tmp_path / "other")
    before = keys(compose(arguments()))
    after = keys(compose(arguments(f"evaluate.general={copy}", f"domain.dev={other}")))
    shared = ["general", "export-base-general", "evaluate-base-general"]
    assert [before[name] for name in shared] == [after[name] for name in shared]
    with (copy / "queries.jsonl").open("a") as file:
        file.write('{"id": "more", "text": "x"}\n')
    after = keys(compose(arguments(f"evaluate.general={copy}")))
    assert before["general"] != after["general"]


def test_a_general_set_trains_nothing_anew(arguments):
    with_it = keys(compose(arguments()))
    without = keys(compose(arguments("evaluate.general=null")))
    changed = {name for name, key in with_it.items() if without.get(name) != key}
    assert changed == {"general", "export-base-general", "evaluate-base-general",
                       "evaluate-general", "report"}  # fmt: skip


def test_the_queries_are_halved_for_good(general, tmp_path):
    forgetting.general({"name": "general"}, {"folder": general}, tmp_path)
    asked = [row["id"] for row in read_dicts(general / "queries.jsonl")]
    for part in ("select", "report"):
        found = read_set(tmp_path / part / "general")
        assert list(found.queries) == [key for key in asked if half(key) == part]
        assert len(found.corpus) == 96


def test_a_set_of_one_query_cannot_be_halved(general, tmp_path):
    copy = shutil.copytree(general, tmp_path / "general")
    (copy / "qrels.tsv").write_text("q0\td0\t1\n")
    with pytest.raises(UserError, match="none of the 1 queries of general falls into the"):
        forgetting.general({"name": "general"}, {"folder": copy}, tmp_path)


# --- whole runs ---


@pytest.fixture(scope="module")
def plain(arguments, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    return pipeline.run(compose(arguments(f"run_dir={run_dir}"))), run_dir


@pytest.fixture(scope="module")
def merged(plain, arguments, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("merged") / "run"
    config = compose(arguments(f"run_dir={run_dir}", "merge=interpolate"))
    return pipeline.run(config), run_dir, config


def scores(report, name="general"):
    return {row["artifact"]: row for row in report["scores"]
            if row["set"] == name and row["metric"] == "ndcg@10"}  # fmt: skip


def gate(report, name):
    (found,) = [each for each in report["gates"] if each["name"] == name]
    return found


def test_base_and_tuned_are_scored_on_the_report_half(plain, general):
    report, run_dir = plain
    rows = scores(report)
    assert set(rows) == {"base", "tuned"}
    asked = [row["id"] for row in read_dicts(general / "queries.jsonl")]
    assert rows["tuned"]["n"] == sum(half(query) == "report" for query in asked)
    assert rows["base"]["value"] > 0.6 and rows["base"]["delta"] is None
    change = rows["tuned"]["value"] - rows["base"]["value"]
    assert rows["tuned"]["delta"] == pytest.approx(change)
    assert rows["tuned"]["p_value"] is not None
    assert report["merge"] is None
    assert not any("Forgetting" in note for note in report["notes"])
    assert "on this domain and on general only" in (run_dir / "README.md").read_text("utf-8")


def test_the_gate_and_the_verdict_say_what_was_lost(plain):
    report, _ = plain
    rows, found = scores(report), gate(report, "general")
    assert found["value"] == pytest.approx(rows["base"]["value"] - rows["tuned"]["value"])
    assert found["value"] > 0.05 and found["status"] == "failed" and found["threshold"] == 0.005
    assert f"{-100 * found['value']:+.1f} ± " in report["verdict"]
    assert "points (it may lose 0.5)" in report["verdict"]


def test_merging_weighs_both_sets_and_publishes_what_it_chose(merged, plain):
    report, run_dir, config = merged
    found = folders(config)
    content = read_json(found["merge"] / "merge.json")
    assert report["merge"] == content and content["sets"] == ["dev", "general"]
    assert [row["weight"] for row in content["table"]] == [0, 0.5, 0.7, 1]
    by_weight = {row["weight"]: row["scores"] for row in content["table"]}
    domain, general = by_weight[content["weight"]]
    assert domain >= by_weight[0][0] + 0.9 * (by_weight[1][0] - by_weight[0][0])
    assert general >= by_weight[1][1]  # no worse than the tuned model outside the domain
    # So few queries that the guard has all of them, too, and found the same while it trained.
    assert by_weight[1][0] == pytest.approx(report["training"]["best"], abs=1e-9)
    assert by_weight[0][0] == pytest.approx(report["training"]["base"], abs=1e-9)
    assert f"Merged with the base: {content['why']}." in report["notes"]
    page = (run_dir / "report.html").read_text("utf-8")
    assert "Merging with the base" in page and page.count("<td>published</td>") == 1
    base, tuned, merged_ = (
        load_file(folder / "model/model.safetensors")
        for folder in (found["base"], found["train"], run_dir)
    )
    share = content["weight"]
    for key, value in merged_.items():
        wanted = share * tuned[key].double() + (1 - share) * base[key].double()
        assert float((value - wanted).abs().max()) <= 1e-7 * max(1, float(wanted.abs().max()))


def test_what_comes_after_the_merge_takes_the_merged_model(merged, plain):
    report, run_dir, config = merged
    steps = {step.name: step for step in pipeline.steps_of(pipeline.resolve(config))}
    for name in ("export", "evaluate", "evaluate-general"):
        assert steps[name].inputs["model"] == "merge"
    names = [stage["name"] for stage in report["stages"]]
    assert names.index("train") < names.index("merge") < names.index("export")
    cached = {stage["name"]: stage["cached"] for stage in report["stages"]}
    assert cached["train"] and cached["evaluate-base-general"] and not cached["merge"]
    # The plain run's model lost on the general set; on the queries that chose it, the merged less.
    lost, lost_before = gate(report, "general")["value"], gate(plain[0], "general")["value"]
    assert lost <= lost_before + 1e-9


def test_weights_are_scored_on_as_many_texts_as_asked(tmp_path):
    queries = {f"q{n}": f"问题{n}" for n in range(400)}
    corpus = {f"d{n}": f"回答{n}" for n in range(900)}
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(400)}
    write_set(tmp_path / "sets/select/own", EvaluationSet("own", queries, corpus, qrels))
    core.merge_pool({"texts": 600, "seed": 0}, {"sets": tmp_path / "sets"}, tmp_path / "out")
    small = read_set(tmp_path / "out/own")
    assert len(small.queries) == 100 and len(small.corpus) == 500


def test_without_a_general_set_the_report_says_how_to_measure(arguments, tmp_path):
    line = arguments("evaluate.general=null", "merge=interpolate", f"run_dir={tmp_path}/run")
    report = pipeline.run(compose(line))
    (note,) = [each for each in report["notes"] if each.startswith("Forgetting")]
    assert "was not measured" in note and "evaluate.general=<folder>" in note
    assert {each["name"] for each in report["gates"]} == {"gain", "int8", "latency"}
    assert report["merge"]["sets"] == ["dev"] and "general" not in report["verdict"]
    by_weight = {row["weight"]: row["scores"][0] for row in report["merge"]["table"]}
    kept = by_weight[report["merge"]["weight"]] - by_weight[0]
    assert kept >= 0.9 * (by_weight[1] - by_weight[0]) > 0


def test_merged_lora_leaves_the_adapter_that_gives_what_is_published(
    arguments, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(merging, "choose", lambda *_: merging.Choice(0.5, "for the test"))
    line = arguments("adapter.layers=2", "train.epochs=3", "train.learning_rate=2e-2",
                     "merge=interpolate", "evaluate.general=null", "merge.weights=[0.5]",
                     f"run_dir={tmp_path}/run", recipe="lora")  # fmt: skip
    report = pipeline.run(compose(line))
    assert report["training"]["improved"] and len(report["merge"]["table"]) == 3
    assert report["merge"]["weight"] == 0.5
    base = models.load(tiny_model)
    adapted = PeftModel.from_pretrained(models.inner(base), tmp_path / "run/adapter")
    base[0].model = adapted.merge_and_unload()
    published = models.load(tmp_path / "run/model")
    np.testing.assert_allclose(
        base.encode(["房东不退押金怎么办"]), published.encode(["房东不退押金怎么办"]), atol=1e-5
    )


def test_a_prefix_cannot_be_merged_and_the_run_says_so_before_any_work():
    with pytest.raises(UserError, match="a prefix cannot be merged with the base"):
        compose(["recipes=prefix", "merge=interpolate"])


def test_where_the_guard_kept_the_base_there_is_nothing_to_merge(arguments, tmp_path):
    line = arguments("train.learning_rate=1e-12", "merge=interpolate", f"run_dir={tmp_path}/run")
    report = pipeline.run(compose(line))
    assert report["training"]["improved"] is False
    assert report["merge"]["table"] == [] and "kept the base" in report["merge"]["why"]
    assert gate(report, "gain")["status"] == "failed"
    assert gate(report, "general")["status"] == "passed"
    assert report["verdict"].startswith("Not improved: the guard kept the base")
    json.dumps(report)


def test_the_embedded_questions_are_a_general_set(arguments, tmp_path):
    config = compose(arguments("evaluate.general=statutes"))
    (step,) = [step for step in pipeline.steps_of(config) if step.name == "general"]
    step.call(step.settings, step.files, tmp_path)
    select, report = (read_set(tmp_path / part / "statutes") for part in ("select", "report"))
    assert len(select.queries) == 100 and len(report.queries) == 338
    assert select.corpus == report.corpus and not set(select.queries) & set(report.queries)


@pytest.mark.slow  # the statutes' corpus, twice
def test_forgetting_is_measured_on_the_embedded_questions(arguments, tmp_path):
    report = pipeline.run(compose(
        arguments("evaluate.general=statutes", "train.learning_rate=1e-12",
                  f"run_dir={tmp_path}/run")
    ))  # fmt: skip
    rows = [row for row in report["scores"] if row["set"] == "statutes"]
    assert {row["artifact"] for row in rows} == {"base", "tuned"}
    assert {row["n"] for row in rows} == {338}
    assert gate(report, "general")["status"] == "passed"


def test_the_law_questions_are_not_general_to_themselves():
    config = compose(["recipes=full", "domain=statutes", "evaluate.general=statutes"])
    with pytest.raises(UserError, match="the domain's own set is called statutes too"):
        forgetting.folder_of(config)
