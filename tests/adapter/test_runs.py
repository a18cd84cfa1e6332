"""Whole runs of `recipes=lora` and `recipes=prefix`, and runs that are killed on the way."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from killed_runs import folder_of, killed_at, with_values, without
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from finetune import pipeline
from finetune.commands.scoring import evaluate
from finetune.config.check import target_problems
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.inference import OnnxEncoder
from finetune.model import TorchEncoder, load

# Of the 2-layer model with 32 channels: rank 16 in the upper layer; 16 places in both.
TRAINED = {"lora": 4 * 16 * (32 + 32) + 2 * 16 * (32 + 64), "prefix": 2 * 2 * 16 * 32}
SETTINGS = {
    "lora": ["adapter.layers=1", "train.learning_rate=5e-3", "train.epochs=12"],
    "prefix": ["train.learning_rate=2e-1", "train.epochs=24"],
}


@pytest.fixture(scope="module", params=SETTINGS)
def finished(request, tiny_model, domain, tmp_path_factory):
    """A finished run: recipe, command line, folder of everything, report."""
    work = tmp_path_factory.mktemp(request.param)
    line = tiny_runs.overrides(
        tiny_model, domain, work, request.param, f"run_dir={work}/run", *SETTINGS[request.param]
    )
    (work / "run/adapter").mkdir(parents=True)  # of an earlier run in the same place
    return request.param, line, work, pipeline.run(compose(line))


def value(report, artifact):
    (row,) = [r for r in report["scores"] if (r["artifact"], r["metric"]) == (artifact, "ndcg@10")]
    return row["value"]


def test_it_helps_and_every_artifact_keeps_it(finished, domain):
    _, _, work, report = finished
    assert value(report, "tuned") > value(report, "base") + 0.2
    assert value(report, "onnx-fp32") == pytest.approx(value(report, "tuned"), abs=1e-6)
    assert value(report, "onnx-int8-dynamic") > value(report, "base") + 0.2
    assert report["parity"]["fp32"]["min_cosine"] >= 0.9999
    (row,) = [r for r in evaluate(work / "run/model", [domain / "dev"], "report", None)
              if r.metric == "ndcg@10"]  # fmt: skip
    assert row.value == pytest.approx(value(report, "tuned"), abs=1e-6)


def test_the_report_tells_how_much_was_trained(finished):
    recipe, _, work, report = finished
    base = sum(p.numel() for p in load(next((work / "cache/base").glob("*/model"))).parameters())
    assert report["training"]["trainable_parameters"] == TRAINED[recipe]
    assert report["training"]["parameters"] == base + TRAINED[recipe]
    assert "trainable_parameters" in (work / "run/report.html").read_text("utf-8")


def test_the_run_directory_has_the_adapter_of_lora_alone(finished):
    recipe, _, work, _ = finished
    files = sorted(p.name for p in (work / "run").rglob("adapter*"))
    if recipe == "lora":
        assert files == ["adapter", "adapter_config.json", "adapter_model.safetensors"]
    else:
        assert files == []


def test_the_card_says_how_the_model_loads(finished):
    recipe, _, work, _ = finished
    card = (work / "run/README.md").read_text("utf-8")
    (line,) = re.findall(r"^model = (.*)$", card, re.MULTILINE)
    line = line.replace('"model"', repr(str(work / "run/model")))
    model = eval(line, {"SentenceTransformer": SentenceTransformer})
    theirs = model.encode(["房东押金"], prompt_name="query", normalize_embeddings=True)
    ours = TorchEncoder(load(work / "run/model")).encode(["房东押金"], "query")
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert ("package `finetune` is installed" in card) == (recipe == "prefix")


def test_the_card_says_how_the_adapter_loads(finished):
    recipe, _, work, _ = finished
    card = (work / "run/README.md").read_text("utf-8")
    blocks = [b for b in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "peft" in b]
    assert len(blocks) == (recipe == "lora")
    base = next((work / "cache/base").glob("*/model"))
    for block in blocks:
        block = re.sub(r'former\("[^"]*"\)', f"former({str(base)!r})", block)
        names = {}
        exec(block.replace('"adapter"', repr(str(work / "run/adapter"))), names)
        theirs = names["adapted"].encode(["房东押金"], prompt_name="query",
                                         normalize_embeddings=True)  # fmt: skip
        ours = TorchEncoder(load(work / "run/model")).encode(["房东押金"], "query")
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_model_and_bundle_agree(finished):
    _, _, work, _ = finished
    texts = ["房东不退押金", "法律", "老板" * 50, "x"]
    exact = TorchEncoder(load(work / "run/model")).encode(texts, "query")
    for precision, floor in (("fp32", 0.99999), ("int8-dynamic", 0.99)):
        vectors = OnnxEncoder.load(work / "run/bundle", precision).encode(texts, "query")
        assert (vectors * exact).sum(axis=1).min() > floor


def test_the_second_run_finds_all_of_it(finished):
    recipe, line, work, first = finished
    again = pipeline.run(compose(line))
    assert all(stage["cached"] for stage in again["stages"])
    assert {**again, "stages": []} == {**first, "stages": []}
    assert (work / "run/adapter").exists() == (recipe == "lora")


@pytest.mark.parametrize(
    "point",
    ["second epoch", pytest.param("before the result is written", marks=pytest.mark.slow)],
)
def test_killed_and_started_again_it_ends_with_the_same_weights(finished, tmp_path, point):
    recipe, line, work, _ = finished
    changes = without(work, tmp_path, ["train", "export", "evaluate", "report"])
    line = with_values(line, [*changes, "until=train"])
    killed_at(point, line)
    folder = folder_of("train", line)
    assert not folder.exists()
    pipeline.run(compose(line))
    whole = work / "cache/train" / folder.name
    assert names(folder) == names(whole)
    for path in folder.rglob("*.safetensors"):
        one, other = load_file(path), load_file(whole / path.relative_to(folder))
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"{recipe}: {name}")
    told, expected = (json.loads((f / "training.json").read_text()) for f in (folder, whole))
    assert told | {"pairs_per_second": 0} == expected | {"pairs_per_second": 0}


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_checkpoint_holds_the_trained_parameters_alone(finished, tmp_path):
    recipe, line, work, _ = finished
    changes = without(work, tmp_path, ["train", "export", "evaluate", "report"])
    line = with_values(line, [*changes, "until=train"])
    killed_at("second epoch", line)
    (checkpoint, *_) = sorted((tmp_path / "cache/train").glob(".partial-*/checkpoints/*"))
    saved = load_file(checkpoint / "trained.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == TRAINED[recipe]
    assert not (checkpoint / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ("+adapter.lenght=3", "length"),
        ("adapter._target_=finetune.adapter.prefix.Prefiks", "Prefiks"),
    ],
)
def test_a_mistake_in_the_adapter_ends_before_the_model_is_read(
    tiny_model, domain, tmp_path, change, meant
):
    key, _, given = change.partition("=")
    line = tiny_runs.overrides(tiny_model, domain, tmp_path, "prefix", f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match=meant):
        pipeline.run(compose([*line, f"{key}={given}"]))
    assert not (tmp_path / "cache/base").exists()


def test_a_mistake_in_the_peft_config_is_told():
    node = compose(["recipes=lora", "+adapter.peft.alpha=8"]).adapter
    (problem,) = target_problems("adapter", node)
    assert problem.startswith("adapter.peft.alpha: peft.LoraConfig has no parameter 'alpha'")
