import dataclasses
import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from benchmarking import benchmark

from finetune.config.compose import choices, compose
from finetune.errors import UserError
from finetune.records import Scored, write_jsonl
from finetune.sets import EvaluationSet, half, write_set


@pytest.fixture
def systems(monkeypatch):
    return benchmark("systems", monkeypatch)


def test_the_plan_of_the_domains_benchmark_begins_with_what_matters(systems):
    best = [f"best_{domain}" for domain in systems.DOMAINS]
    planned = list(systems.systems(3, [*best, *systems.METHODS]))
    assert len({each.label for each in planned}) == len(planned)
    names = list(dict.fromkeys((each.name, each.seed) for each in planned))
    assert names == [
        ("bm25", 1), ("starter", 1), ("plain", 1), ("best", 1), ("strict", 1),
        ("flagembedding", 1), *((name, 1) for name in systems.METHODS), ("plain", 2), ("best", 2),
        ("plain", 3), ("best", 3),
    ]  # fmt: skip
    labels = [each.label for each in planned]
    first = labels.index("legal-best-1")
    assert labels[first : first + 5] == ["legal-best-1", "medical-best-1", "finance-best-1",
                                         "legal-strict-1", "ecommerce-best-1-fold0"]  # fmt: skip
    elsewhere = [each.label for each in planned if each.elsewhere]
    once = [label for label in elsewhere if "starter" in label or "bm25" in label]
    assert once == ["legal-bm25-1", "legal-starter-1"]
    assert len(elsewhere) == 2 + 2 * len(systems.DOMAINS)
    converted = [each.label for each in planned if each.converted]
    assert converted == ["legal-starter-1", "legal-plain-1", "legal-best-1"]
    assert {each.seed for each in planned if each.rounded} == {1}
    without = systems.systems(3, systems.METHODS)
    assert [each for each in without if each.name in ("best", "strict")] == []


def test_the_plans_time_is_that_of_its_runs_at_this_machines_pace(systems, monkeypatch):
    planned = list(systems.systems(1, choices("recipes")))
    whole = systems.hours(planned)
    assert whole == pytest.approx(sum(systems.hours([each]) for each in planned))
    done = {each.label: {"seconds": 120 * each.minutes, "versions": {"machine": "slow"}}
            for each in planned[:6]}  # fmt: skip
    assert systems.pace(planned, done, "another") == 0
    times = systems.pace(planned, done, "slow")
    assert times == pytest.approx(2) and systems.hours(planned, times) == pytest.approx(2 * whole)
    domains = benchmark("domains", monkeypatch)
    monkeypatch.setattr(domains.hardware, "label", lambda _: "slow")
    assert domains.expected(planned, done) == (pytest.approx(2), "at the pace of those done here")
    monkeypatch.setattr(domains.rates, "corrections", lambda *_: {"train": 3.0})
    here = domains.hardware.resolve(compose(["recipes=full", "hardware=cpu"]).hardware)
    for precision, threads, asked in (("bf16", 2, 3), ("bf16", 1, 6), ("fp32", 2, 6.06)):
        kind = type(here.precision)(precision)
        there = dataclasses.replace(here, precision=kind, threads=threads)
        monkeypatch.setattr(domains.hardware, "resolve", lambda _, there=there: there)
        assert domains.expected(planned, {})[0] == pytest.approx(asked, rel=0.01)


def test_a_run_that_fails_ends_no_other(tmp_path, monkeypatch, capsys):
    domains = benchmark("domains", monkeypatch)
    failing = {"legal-bm25-1": UserError("x: no such file"), "medical-bm25-1": None,
               "ecommerce-bm25-1": subprocess.CalledProcessError(1, "plain.py")}  # fmt: skip

    metrics = ("ndcg@10", "mrr@10", "recall@100")

    def result(self, system):
        if system.label not in failing:
            return {"seconds": 1.0, "values": dict.fromkeys(metrics, {"q": 0.4})}
        if failing[system.label] is None:
            return None
        raise failing[system.label]

    monkeypatch.setattr(domains.Lab, "result", result)
    monkeypatch.setattr(domains, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(domains, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(domains, "systems", lambda *_: [
        domains.System(domain, "bm25", 1) for domain in domains.DOMAINS])  # fmt: skip
    (tmp_path / "legal").mkdir()
    monkeypatch.setattr(domains.sys, "argv", ["domains.py", f"--data={tmp_path}"])
    assert domains.main() == 1
    told = capsys.readouterr().out
    assert "4 runs, about" in told and "legal-bm25-1: x: no such file" in told
    assert told.endswith("failed: legal-bm25-1, medical-bm25-1, ecommerce-bm25-1\n")
    assert [path.name for path in domains.FOLDER.iterdir()] == ["finance-bm25-1.json", "table.md"]
    assert not domains.PAGE.exists()  # nothing to tell yet


def test_what_a_recipe_made_is_measured_again_once_the_recipe_has_changed(tmp_path, monkeypatch):
    lab, systems = benchmark("lab", monkeypatch), benchmark("systems", monkeypatch)
    made = lab.Lab(tmp_path, tmp_path)
    best, script = systems.System("legal", "full", 1), systems.System("legal", "plain", 1)
    words = made.words(best)
    assert {"limit=4000", "evaluate.speed_texts=30", "export.precisions=[fp32]"} <= set(words)
    command = " ".join(["python train.py", *words]).replace(str(tmp_path.resolve()), "<folder>")
    assert not made.stale(best, {"command": command})
    assert made.stale(best, {"command": f"{command} seed=3"}) and not made.stale(script, {})


def test_whole_commands_count_what_the_cache_had(monkeypatch):
    lab = benchmark("lab", monkeypatch)
    stages = [{"name": name, "seconds": seconds} for name, seconds in
              (("data", 60), ("train", 600), ("export", 120), ("evaluate-base", 180),
               ("report", 30))]  # fmt: skip
    assert lab.minutes(stages) == 11
    assert lab.whole({"seconds": 40, "stages": stages}) == 990
    assert lab.whole({"seconds": 1000, "stages": stages}) == 1000


def test_the_same_pairs_of_a_similarity_set_are_drawn_for_every_system(monkeypatch):
    lab = benchmark("lab", monkeypatch)
    rows = tuple(Scored(f"{n}", f"a{n}", f"b{n}", 1.0, "bq") for n in range(2500))
    one = lab.drawn(lab.ScoredSet("bq", rows))
    assert len(one.pairs) == lab.DRAWN and one == lab.drawn(lab.ScoredSet("bq", rows))
    assert len(lab.drawn(lab.ScoredSet("bq", rows[:10])).pairs) == 10


def test_the_script_trains_in_what_the_machine_computes_itself(tmp_path, monkeypatch):
    lab, systems = benchmark("lab", monkeypatch), benchmark("systems", monkeypatch)
    monkeypatch.setattr(lab, "PAIRS", 2)
    (tmp_path / "legal").mkdir()
    row = json.dumps({"query": "a", "positive": "b", "source": "stard"})
    (tmp_path / "legal/train.jsonl").write_text(f"{row}\n" * 3, "utf-8")
    commands = []
    monkeypatch.setattr(lab.subprocess, "run", lambda words, **_: commands.append(words))
    monkeypatch.setattr(lab, "precision", lambda: "fp32")
    told = lab.Lab(tmp_path, tmp_path / "work").otherwise(systems.System("legal", "plain", 2))
    assert commands[0][-4:] == ["--seed", "2", "--precision", "fp32"]
    assert told == {"minutes": 0.0, "precision": "fp32", "sources": ["stard"]}
    drawn = tmp_path / "work/legal-plain-2/train.jsonl"
    assert drawn.read_text("utf-8") == f"{row}\n" * 2


def test_flagembedding_trains_on_the_scripts_pairs_with_the_bases_prompts_and_pooling(
    tmp_path, tiny_model, monkeypatch
):
    lab, systems = benchmark("lab", monkeypatch), benchmark("systems", monkeypatch)
    monkeypatch.setattr(lab, "PAIRS", 3)
    (tmp_path / "medical").mkdir()
    pairs = [{"query": f"q{n}", "positive": f"p{n}", "source": "kuake-qqr"} for n in range(3)]
    write_jsonl(tmp_path / "medical/train.jsonl", pairs)
    made = lab.Lab(tmp_path, tmp_path / "work")
    shutil.copytree(tiny_model, made.starter)
    commands = []

    def run(words, **_):
        commands.append(words)
        if "--output_dir" in words:
            trained = Path(words[words.index("--output_dir") + 1])
            trained.mkdir()
            (trained / "config.json").write_text("{}", "utf-8")
            (trained / "model.safetensors").write_bytes(b"tuned")
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(lab.subprocess, "run", run)
    monkeypatch.setattr(lab, "precision", lambda: "bf16")
    told = made.otherwise(systems.System("medical", "flagembedding", 1))
    assert told == {"minutes": 0.0, "precision": "bf16", "sources": ["kuake-qqr"]}
    asked = dict(zip(commands[-1][3::2], commands[-1][4::2], strict=True))
    assert asked["--query_instruction_for_retrieval"] == "问"
    assert asked["--passage_instruction_for_retrieval"] == ""
    assert asked["--sentence_pooling_method"] == "mean" and asked["--bf16"] == "True"
    lines = (tmp_path / "work/medical-flagembedding-1/rows.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert sorted(row["query"] for row in rows) == ["q0", "q1", "q2"]
    assert all(len(row["neg"]) == 1 and row["neg"] != row["pos"] for row in rows)
    model = tmp_path / "work/medical-flagembedding-1/model"
    assert (model / "model.safetensors").read_bytes() == b"tuned"
    assert (model / "modules.json").is_file()


def test_flagembedding_that_does_not_install_is_told(tmp_path, monkeypatch):
    module = benchmark("flagembedding", monkeypatch)
    monkeypatch.setattr(module.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(
        words, "pip" in words, stderr="No matching distribution"))  # fmt: skip
    with pytest.raises(UserError, match="does not install: No matching distribution"):
        module.environment(tmp_path / "environment")


def test_a_model_is_scored_on_its_questions_in_both_scripts_and_on_the_other_sets(
    tmp_path, tiny_model, monkeypatch
):
    lab, systems = benchmark("lab", monkeypatch), benchmark("systems", monkeypatch)
    monkeypatch.setattr(lab, "build_starter", partial(shutil.copytree, tiny_model))
    for name in ("legal", "general"):
        texts = {f"{name}{n}": f"房东应当退还押金{n}元" for n in range(30)}
        qrels = {query: {query: 1} for query in texts}
        write_set(tmp_path / name, EvaluationSet(name, texts, texts, qrels))
    rows = [{"sentence1": "押金", "sentence2": f"押金{n}", "label": n % 2} for n in range(8)]
    (tmp_path / "sts/bq").mkdir(parents=True)
    write_jsonl(tmp_path / "sts/bq/test.jsonl", rows)
    found = lab.Lab(tmp_path, tmp_path / "work").result(systems.System("legal", "starter", 1))
    halves = {name: {f"{name}{n}" for n in range(30) if half(f"{name}{n}") == "report"}
              for name in ("legal", "general")}  # fmt: skip
    assert set(found["values"]["ndcg@10"]) == halves["legal"]
    assert set(found["traditional"]["ndcg@10"]) == halves["legal"]
    assert set(found["others"]) == {"general", "bq"} and found["seconds"] > 0
    assert set(found["others"]["general"]["values"]) == halves["general"]
    assert found["others"]["bq"]["metric"] == "spearman"
    assert len(found["others"]["bq"]["values"]) == 8
    words = lab.Lab(tmp_path, tmp_path / "work").result(systems.System("legal", "bm25", 1))
    assert set(words["others"]) == {"general"} and set(words["values"]) == set(found["values"])


def test_the_guards_set_is_held_to_the_whole_one(monkeypatch):
    module = benchmark("guard", monkeypatch)
    monkeypatch.setattr(module, "_BUDGETS", (300,))
    rng = np.random.default_rng(0)
    corpus = {f"d{n}": f"第{n}条规定" for n in range(900)}
    whole = EvaluationSet("dev", {f"q{n}": f"第{n}条" for n in range(60)}, corpus,
                          {f"q{n}": {f"d{n}": 1} for n in range(60)})  # fmt: skip
    passages = {key: unit(rng.normal(size=16)) for key in corpus}

    def model(noise):
        queries = {f"q{n}": unit(passages[f"d{n}"] + noise * unit(rng.normal(size=16)))
                   for n in range(60)}  # fmt: skip
        return queries, passages

    base, tuned = model(1.3), model(1.0)
    rows = {row["set"]: row for row in module.measured(whole, base, tuned)}
    assert rows["whole select half"]["spread"] == 0 and len(rows) == 4
    hard, guards = rows["the base's first and BM25's"], rows["the guard's"]
    assert hard["base"] < guards["base"] and hard["gain"] > guards["gain"] > 0
    small = module.guard.pooled(whole, max_texts=300, seed=0)
    made = module.with_mistakes(whole, base)(small, 0)
    assert len(made.corpus) == len(small.corpus) and made.queries == small.queries
    scores = np.stack([base[0][key] for key in small.queries]) @ np.stack([*passages.values()]).T
    assert {f"d{place}" for place in scores.argmax(axis=1)} <= set(made.corpus)


def unit(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)
