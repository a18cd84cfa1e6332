"""Scored pairs from the data to the report: the recipe `cosent` on a domain of its own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_runs
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score

from finetune import model as models
from finetune import pipeline
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.data import sts
from finetune.records import Scored, read_dicts
from finetune.sets import half
from finetune.stage import plan
from finetune.training import train as training

COSENT = {
    "_target_": "sentence_transformers.sentence_transformer.losses.CoSENTLoss",
    "scale": 20.0,
}


@pytest.fixture(scope="module")
def scored(tiny_model, tmp_path_factory):
    return tiny_runs.learnable_scores(tmp_path_factory.mktemp("scored") / "domain", tiny_model)


@pytest.fixture(scope="module")
def rows(scored):
    return [
        Scored(str(n), row["a"], row["b"], row["score"], "s")
        for n, row in enumerate(read_dicts(scored / "train.jsonl"))
    ]


@pytest.fixture(scope="module")
def select(scored):
    whole = sts.read(scored / "dev")
    return whole.only({pair.id for pair in whole.pairs if half(pair.id) == "select"})


@pytest.fixture(scope="module")
def finished(tiny_model, scored, tmp_path_factory):
    """A finished run: its directory, what run() returned, its configuration."""
    work = tmp_path_factory.mktemp("runs")
    line = tiny_runs.overrides(tiny_model, scored, work, "cosent", f"run_dir={work}/run")
    config = compose(line)
    return work / "run", pipeline.run(config), config


def row(report, artifact, metric):
    (found,) = [r for r in report["scores"] if (r["artifact"], r["metric"]) == (artifact, metric)]
    return found


def test_no_step_searches(finished):
    _, report, config = finished
    names = ["sets", "data", "base", "export-base", "pool", "train", "export", "evaluate-base",
             "evaluate", "report"]  # fmt: skip
    assert [stage["name"] for stage in report["stages"]] == names
    assert [step.name for step in pipeline.steps_of(pipeline.resolve(config))] == names
    assert all(stage["cached"] for stage in pipeline.run(config)["stages"])


def test_training_put_the_pairs_that_it_never_saw_in_order(finished):
    _, report, _ = finished
    assert report["training"]["improved"] is True
    base, tuned = (row(report, artifact, "spearman") for artifact in ("base", "tuned"))
    assert tuned["value"] > base["value"] + 0.2 and tuned["delta"] > 0.2
    gate = report["gates"][0]
    assert (gate["name"], gate["status"], gate["n"]) == ("gain", "passed", tuned["n"])
    assert "points" in report["verdict"] and "points Spearman" in gate["detail"]


def test_the_scores_are_those_of_other_libraries(finished, scored):
    run_dir, report, _ = finished
    pairs = [pair for pair in sts.read(scored / "dev").pairs if half(pair.id) == "report"]
    model = SentenceTransformer(str(run_dir / "model"), device="cpu")
    a, b = (
        model.encode(texts, prompt_name="query", normalize_embeddings=True)
        for texts in ([pair.a for pair in pairs], [pair.b for pair in pairs])
    )
    cosines, labels = (a * b).sum(axis=1), [pair.score for pair in pairs]
    for metric, expected in (
        ("spearman", spearmanr(cosines, labels).statistic),
        ("ap", average_precision_score(labels, cosines)),
    ):
        found = row(report, "tuned", metric)
        assert found["value"] == pytest.approx(expected, abs=1e-3)
        assert -1 <= found["ci_low"] <= found["value"] <= found["ci_high"] <= 1
        assert (found["set"], found["n"]) == ("dev", len(pairs))


def test_report_page_card_and_curves_speak_of_pairs(finished):
    run_dir, report, config = finished
    assert {r["metric"] for r in report["scores"]} == {"spearman", "ap", "f1"}
    assert report["baselines"] == [] and report["mining"] is None
    sizes = report["data"]["sets"]["dev"]
    assert sizes["select"] + sizes["report"] == 256 and "passages" not in sizes
    page = (run_dir / "report.html").read_text("utf-8")
    card = (run_dir / "README.md").read_text("utf-8")
    for text in (page, card):
        assert "Spearman" in text and f"({sizes['report']} pairs)" in text and "NDCG" not in text
    assert "other text" in page and "rank by cosine" in page
    assert "type: semantic-similarity" in card
    assert {path.stem for path in (run_dir / "plots").iterdir()} == {
        "scores", "select", "loss", "speed", "similarity"
    }  # fmt: skip


def test_the_guard_is_the_select_half_alone(finished, scored, select):
    _, report, config = finished
    planned = plan(pipeline.steps_of(pipeline.resolve(config)), config.paths.cache)
    folders = {each.step.name: each.folder for each in planned}
    curves = list(read_dicts(folders["train"] / training.CURVES))
    first = curves[0]["eval_spearman"]
    base = models.load(folders["base"] / "model")
    guard = training.Guard(select, Precision.fp32)
    assert len(select.pairs) < 150  # so that all of it is used
    assert first == report["training"]["base"] == pytest.approx(guard(base)["spearman"], abs=1e-6)


def test_forgetting_is_measured_and_merged_against(tiny_model, scored, domain, tmp_path):
    line = tiny_runs.overrides(
        tiny_model, scored, tmp_path, "cosent", f"run_dir={tmp_path}/run", "merge=interpolate",
        f"evaluate.general={shutil.copytree(domain / 'dev', tmp_path / 'general')}",
    )  # fmt: skip
    report = pipeline.run(compose(line))
    table = {each["weight"]: each["scores"] for each in report["merge"]["table"]}
    assert report["merge"]["sets"] == ["dev", "general"]
    assert set(table) == {0, 0.5, 0.7, 1}
    assert table[1][0] == pytest.approx(report["training"]["best"], abs=1e-6)
    assert table[0][0] == pytest.approx(report["training"]["base"], abs=1e-6)
    metrics = {(r["set"], r["metric"]) for r in report["scores"] if r["artifact"] == "tuned"}
    assert {("dev", "spearman"), ("general", "ndcg@10")} <= metrics
    assert [gate["name"] for gate in report["gates"]] == ["gain", "general", "int8", "latency"]
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "Spearman · NDCG@10 in points on small parts" in page


def settings(**changes):
    changes = {"epochs": 1, "batch_size": 32, "max_length": 32, "learning_rate": 3e-3} | changes
    config = compose(["recipes=cosent", *(f"train.{k}={v}" for k, v in changes.items())])
    return training.Plan(config.train, dict(COSENT), Precision.fp32, "cpu", 1, 42)


class Probe(torch.nn.Module):
    """A loss that notes what it is given."""

    seen: list = []

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features, labels):
        tokenizer = self.model.tokenizer
        texts = [
            ["".join(tokenizer.convert_ids_to_tokens(ids, True)) for ids in column["input_ids"]]
            for column in features
        ]
        self.seen += list(zip(*texts, labels.tolist(), strict=True))
        return sum(self.model(column)["sentence_embedding"].sum() for column in features) * 0


def test_the_loss_sees_both_texts_as_queries_and_their_score(tiny_model, rows, select, tmp_path):
    model = models.load(tiny_model)
    model.prompts = {"query": "看", "passage": "说", "document": "说"}
    models.save(model, tmp_path / "base")
    graded = [dataclasses.replace(each, score=n / 7) for n, each in enumerate(rows)]
    plan_ = dataclasses.replace(settings(patience=9), loss={"_target_": "test_cosent.Probe"})
    Probe.seen.clear()
    training.train(tmp_path / "base", graded, select, plan_, tmp_path)
    expected = {(f"看{each.a}", f"看{each.b}"): each.score for each in graded}
    assert len(Probe.seen) == len(graded) == 320
    for a, b, score in Probe.seen:
        assert expected[a, b] == pytest.approx(score)


def test_only_the_order_of_the_scores_counts(tiny_model, rows, select, tmp_path):
    stretched = [dataclasses.replace(each, score=40 + 5 * each.score) for each in rows]
    for name, content in (("one", rows), ("two", stretched)):
        (tmp_path / name).mkdir()
        training.train(tiny_model, content, select, settings(), tmp_path / name)
    one, two = (models.load(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_scores_that_are_noise_do_not_harm_the_base(tiny_model, rows, select, tmp_path):
    order = np.random.default_rng(0).permutation(len(rows))
    noise = [dataclasses.replace(each, score=rows[other].score)
             for each, other in zip(rows, order, strict=True)]  # fmt: skip
    result = training.train(tiny_model, noise, select, settings(epochs=3), tmp_path)
    guard = training.Guard(select, Precision.fp32)
    assert guard(models.load(tmp_path / "model"))["spearman"] >= result["base"] - 1e-9
    assert json.loads((tmp_path / training.RESULT).read_text()) == result
