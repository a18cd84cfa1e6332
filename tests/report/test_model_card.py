"""The model card, read as the hubs read it, and as somebody who copies from it."""

import ast
import dataclasses
import re

import pytest

from finetune import report
from finetune.config.choices import Hub


def card_of(facts, tmp_path) -> str:
    report.build(facts, tmp_path)
    return (tmp_path / "README.md").read_text("utf-8")


def test_which_revision_was_tuned(facts, tmp_path):
    model = dataclasses.replace(
        facts.model, hub=Hub.huggingface, id="owner/base", revision="a" * 40
    )
    pinned = dataclasses.replace(facts, model=model)
    assert f"`owner/base` (revision `{'a' * 40}`), tuned with" in card_of(pinned, tmp_path)
    assert report.build(pinned, tmp_path)["about"]["base_revision"] == "a" * 40
    unknown = dataclasses.replace(facts, model=dataclasses.replace(model, revision=None))
    assert "`owner/base`, tuned with" in card_of(unknown, tmp_path)
    assert report.build(unknown, tmp_path)["about"]["base_revision"] == "unknown"


def test_the_hub_reads_metadata_and_scores(facts, tmp_path):
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    model = dataclasses.replace(facts.model, hub=Hub.huggingface, id="owner/base")
    facts = dataclasses.replace(facts, model=model)
    content = report.build(facts, tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.base_model, data.language) == ("mit", "owner/base", ["zh"])
    metadata = data.to_dict()
    assert metadata["base_model_relation"] == "finetune"
    assert metadata["library_name"] == "sentence-transformers"
    assert data.metrics == ["ndcg_at_10", "mrr_at_10", "recall_at_100"]
    # ModelScope reads the same file.
    assert (metadata["tasks"], metadata["domain"]) == (["sentence-embedding"], ["nlp"])
    assert metadata["frameworks"] == ["pytorch", "onnx"] and "license_link" not in metadata
    assert data.pipeline_tag == "sentence-similarity"
    tuned = {(row["set"], row["metric"].replace("@", "_at_")): row["value"]
             for row in content["scores"]
             if row["artifact"] == "tuned" and "/" not in row["set"]}  # fmt: skip
    told = {(each.dataset_name, each.metric_type): each.metric_value for each in data.eval_results}
    assert told.keys() == tuned.keys()
    assert all(told[key] == pytest.approx(tuned[key], abs=1e-5) for key in tuned)


def test_usage_of_every_artifact_is_python(facts, tmp_path):
    card = card_of(dataclasses.replace(facts, adapter=True), tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for block in blocks:
        ast.parse(block)
    assert [block.splitlines()[0] for block in blocks] == [
        "from sentence_transformers import SentenceTransformer", "from pathlib import Path",
        "from peft import PeftModel",
    ]  # fmt: skip
    for precision in facts.parity:
        assert f"- `{precision}`: " in card
    assert "peft" not in card_of(facts, tmp_path)


def test_licences_and_flaws_of_the_data(facts, tmp_path):
    told = dataclasses.replace(
        facts, data_licences="research-only (STARD: MIT; advice: research only)",
        data_flaws=["judged by <one> person"],
    )  # fmt: skip
    card = card_of(told, tmp_path)
    assert "Licences of the sources: research-only (STARD: MIT; advice: research only)." in card
    assert r"- Data: judged by \<one\> person" in card
    assert "unknown: no data card names them" in card_of(facts, tmp_path)


def test_the_commit_of_a_data_set_of_the_hub(facts, tmp_path):
    summary = facts.data_summary | {"hub": "owner/questions@abc:law/train"}
    card = card_of(dataclasses.replace(facts, data_summary=summary), tmp_path)
    assert "From the hub: `owner/questions@abc:law/train`." in card
    assert "datasets:\n- owner/questions\n" in card
    assert "From the hub" not in card_of(facts, tmp_path)


def test_licences_of_what_was_mixed_in(facts, tmp_path):
    bare = {"pairs": 3, "sources": ["qbqtc"]}
    for each, told in (
        (bare, "no data card names their licences."),
        (bare | {"licences": "unknown (QBQTC: x)"}, "their licences: unknown (QBQTC: x)."),
    ):
        summary = facts.data_summary | {"mixed": {"general": each}}
        card = card_of(dataclasses.replace(facts, data_summary=summary), tmp_path)
        assert f"Mixed in: general, 3 pairs (sources: qbqtc); {told}" in card


def test_without_a_published_precision_the_card_names_no_bundle(facts, tmp_path):
    misses = {name: {**each, "misses": {"min_cosine": 1.0}} for name, each in facts.parity.items()}
    for each in misses.values():
        each["centred_cosine"] = each["top10_overlap"] = 1.0
    card = card_of(dataclasses.replace(facts, parity=misses), tmp_path)
    assert "There is no folder `bundle/`" in card and "OnnxEncoder.load" not in card
