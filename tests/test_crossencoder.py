import os
import shutil
import subprocess
import sys

import pytest
import torch
from hub_cache import COMMIT, put
from tiny_models import tiny_transformers
from tiny_runs import overrides
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from finetune import pipeline
from finetune.config.compose import compose
from finetune.crossencoder import load
from finetune.errors import UserError
from finetune.records import read_dicts, read_json
from finetune.stage import plan
from finetune.steps import rounds


def cross_encoder(folder, outputs=1):
    """A random cross-encoder with the tiny model's vocabulary."""
    tiny_transformers(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(folder, num_labels=outputs)
    model = BertForSequenceClassification(config)
    with torch.no_grad():  # larger weights, so that different pairs get different scores
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return cross_encoder(tmp_path_factory.mktemp("cross"))


def test_scores_are_the_sigmoid_of_the_models_output(reranker):
    found = load(reranker, "cpu", 0.1)
    assert found.margin == 0.1
    tokenizer = AutoTokenizer.from_pretrained(reranker)
    model = BertForSequenceClassification.from_pretrained(reranker).eval()
    scores = set()
    for query, text in (("房东押金", "法律规定"), ("房东押金", "工资老板"), ("工资", "房东")):
        with torch.inference_mode():
            logit = model(**tokenizer(query, text, return_tensors="pt")).logits[0, 0]
        (score,) = found.judge([(query, text)])
        assert score == pytest.approx(float(torch.sigmoid(logit)), abs=1e-6)
        scores.add(round(score, 4))
    assert len(scores) == 3


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda path: cross_encoder(path, outputs=3), "has 3 outputs instead of one"),
        (tiny_transformers, "has no head that was trained to score (['BertModel'])"),
        (lambda path: path, "cannot be loaded"),
    ],
)
def test_what_is_no_reranker_is_refused(tmp_path, make, phrase):
    folder = make(tmp_path)
    with pytest.raises(UserError) as caught:
        load(folder, "cpu", 0.1)
    assert str(caught.value).startswith(f"mine.filter={folder}: ") and phrase in str(caught.value)
    assert "mine.filter=null" in str(caught.value)


def test_a_hub_id_without_a_network(monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="mine.filter=nobody/nothing: cannot be loaded"):
        load("nobody/nothing", "cpu", 0.1)
    assert "no revision named" in caplog.text


# --- in a run ---


@pytest.fixture(scope="module")
def line(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")
    return overrides(tiny_model, domain, work, "contrastive", "until=mine", f"run_dir={work}/run")


def mined(config):
    planned = plan(pipeline.steps_of(pipeline.resolve(config)), config.paths.cache)
    return next(each.folder for each in planned if each.step.name == "mine")


def test_a_run_leaves_out_what_the_filter_finds_too_close(line, reranker):
    config = compose([*line, f"mine.filter={reranker}", "mine.filter_margin=0", "limit=24"])
    pipeline.run(config)
    read = load(reranker, "cpu", 0).judge

    def judge(query: str, text: str) -> float:
        return read([(query, text)])[0]

    close = "too close by the cross-encoder"
    kept = left_out = 0
    for row in read_dicts(mined(config) / "audit.jsonl"):
        limit = judge(row["query"], row["positive"])
        for text, _ in row["kept"]:
            kept += 1
            assert judge(row["query"], text) <= limit
        for text, _, reason in row["dropped"]:
            if reason == close:
                left_out += 1
                assert judge(row["query"], text) > limit
    assert kept >= 20 and left_out >= 3
    assert read_json(mined(config) / "summary.json")[close] >= left_out


def keys(config):
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    return {each.step.name: each.key for each in planned}


def test_the_filters_content_is_part_of_the_key_and_its_place_is_not(line, reranker, tmp_path):
    copy = shutil.copytree(reranker, tmp_path / "copy")
    without, one, other = (
        keys(compose([*line, *more]))["mine"]
        for more in ([], [f"mine.filter={reranker}"], [f"mine.filter={copy}"])
    )
    assert without != one == other
    (copy / "config.json").write_text("{}")
    assert keys(compose([*line, f"mine.filter={copy}"]))["mine"] != one
    wider = keys(compose([*line, f"mine.filter={reranker}", "mine.filter_margin=0.2"]))
    assert wider["mine"] != one


@pytest.mark.parametrize("name", ["/no/such/folder", "one", "owner/name:split"])
def test_a_filter_that_cannot_be_one_ends_before_any_work(line, name):
    with pytest.raises(UserError, match="mine.filter=.*no such folder, and no hub id"):
        pipeline.steps_of(compose([*line, f"mine.filter={name}"]))


def test_a_hub_id_is_a_setting(line):
    config = compose([*line, "mine.filter=owner/name@abc"])
    assert rounds.filter_files(config) == {}
    assert rounds.mine_settings(config, {})["mine"].filter == "owner/name@abc"


def test_a_hub_id_is_resolved_to_its_commit_which_is_part_of_the_key(line, reranker, tmp_path):
    put(tmp_path, reranker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        found, pinned, unknown = (
            pipeline.resolve(compose([*line, f"mine.filter={name}"]))
            for name in ("owner/name", f"owner/name@{COMMIT}", "owner/other")
        )
    assert found.mine.filter == f"owner/name@{COMMIT}"
    assert found.mine == pinned.mine
    assert unknown.mine.filter == "owner/other"
    assert keys(found)["mine"] == keys(pinned)["mine"] != keys(unknown)["mine"]


def test_a_folder_is_not_looked_up_on_a_hub(line, reranker, monkeypatch):
    monkeypatch.setattr("finetune.hub.commit", None)
    for more in ([f"mine.filter={reranker}"], [], ["mine=none", "mine.filter=owner/name"]):
        config = compose([*line, *more])
        assert rounds.resolved(config) == config.mine


def test_exactly_the_resolved_commit_is_loaded_from_the_cache(reranker, tmp_path):
    """In a process of its own: the libraries read where the cache is when they are imported."""
    put(tmp_path / "hub", reranker)
    other = cross_encoder(tmp_path / "other", outputs=3)
    put(tmp_path / "hub", other, "f" * 40)  # main is this one now, which would be refused
    code = f"from finetune.crossencoder import load; f = load('owner/name@{COMMIT}', 'cpu', 0.1)"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; print(f.judge([('房东押金', '法律规定')])[0])"],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (expected,) = load(reranker, "cpu", 0.1).judge([("房东押金", "法律规定")])
    assert float(result.stdout) == pytest.approx(expected, abs=1e-6)
