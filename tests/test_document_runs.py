"""Runs whose training pairs come from documents."""

import pytest
import tiny_runs
from endpoints import completion
from tiny_models import CHARS

from finetune import pipeline
from finetune.config.compose import compose
from finetune.records import read_dicts, read_json, write_jsonl


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def run(tiny_model, domain, work, recipe, *more):
    """Documents whose titles ask what their texts answer; every run has its own directory."""
    file = domain / "documents.jsonl"
    rows = read_dicts(domain / "train.jsonl")
    write_jsonl(file, [{"title": row["query"], "text": row["positive"]} for row in rows])
    line = tiny_runs.overrides(tiny_model, domain, work, recipe,
                               f"domain.documents={file}", *more)  # fmt: skip
    return pipeline.run(compose([each for each in line if each != "domain.train=null"]))


def names(report):
    return [stage["name"] for stage in report["stages"]]


def gain(report):
    rows = {row["artifact"]: row["value"] for row in report["scores"] if row["metric"] == "ndcg@10"}
    return rows["tuned"] - rows["base"]


def test_documents_alone_teach_what_their_titles_ask(tiny_model, domain, work):
    report = run(tiny_model, domain, work, "documents", "domain.train=null")
    assert names(report)[:4] == ["sets", "data", "generate", "base"]
    assert set(report["data"]["sources"]) == {"generated-title"}  # the texts are one sentence
    assert gain(report) > 0.3


def test_a_warm_up_on_documents_comes_before_the_pairs(tiny_model, domain, work):
    report = run(tiny_model, domain, work, "warmup", "train.epochs=2")
    order = names(report)
    assert order.index("generate") < order.index("pool") < order.index("warmup")
    assert order.index("warmup") + 1 == order.index("train")
    assert set(report["data"]["sources"]) == {"train"}
    warm = {stage["name"]: stage["key"] for stage in report["stages"]}["warmup"]
    after = read_json(work / "cache/train" / warm / "training.json")
    told = report["training"]
    assert after["improved"] and told["warmup"] == after and told["base"] == after["base"]
    assert told["train"]["base"] == pytest.approx(after["best"], abs=0.02)
    assert told["improved"] and told["steps"] == after["steps"] + told["train"]["steps"]


def test_simcse_needs_nothing_but_the_corpus(tiny_model, domain, work):
    report = run(tiny_model, domain, work, "simcse", "domain.train=null", "domain.documents=null",
                 "train.epochs=1")  # fmt: skip
    assert report["data"]["sources"] == {"generated-identity": 64}
    assert report["training"]["steps"] == 8


def test_a_model_writes_queries_and_the_report_says_what_they_cost(
    tiny_model, domain, work, endpoint_stand_in, monkeypatch, caplog
):
    monkeypatch.setenv("THE_KEY", "sk-secret-of-the-test")
    caplog.set_level("INFO")
    asked = [f"{CHARS[2 * n]}{CHARS[2 * n + 1]}的事谁管" for n in range(12)]
    endpoint_stand_in.answers = [(200, {}, completion(each)) for each in asked]
    report = run(
        tiny_model, domain, work, "documents", "domain.train=null", "train.epochs=1",
        "generate.title=0", "generate.pairs=12", "generate.cloze=0", "generate.phrases=0",
        "generate.question=0", "generate.heading=0", f"writer.url={endpoint_stand_in.url}",
        "writer.model=m", "writer.key_env=THE_KEY", "writer.prompt='请提问：{passage}'",
        "writer.price_in=1000", "writer.price_out=2000", "evaluate.currency=CNY",
        "writer.concurrency=1", f"run_dir={work}/written",
    )  # fmt: skip
    told = report["data"]["written"]
    assert (told["replies"], told["tokens in"], told["tokens out"]) == (12, 1200, 120)
    assert told["cost in CNY when asked for"] == pytest.approx((1200 * 1000 + 120 * 2000) / 1e6)
    assert set(report["data"]["sources"]) == {"generated-written"}
    assert f"at most 12 requests to {endpoint_stand_in.url} of" in caplog.text
    assert "cost in CNY when asked for" in (work / "written/report.html").read_text("utf-8")
    files = [path for path in work.rglob("*") if path.is_file()]
    assert all(b"sk-secret-of-the-test" not in path.read_bytes() for path in files)
    assert "sk-secret-of-the-test" not in caplog.text
