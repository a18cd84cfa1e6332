"""Losses, adapters, negatives and chunks are chosen apart; here they work together."""

import numpy as np
import pytest
import tiny_runs
from safetensors.torch import load_file

from finetune import pipeline
from finetune.config.compose import compose
from finetune.inference import BundleInfo
from finetune.records import read_dicts
from finetune.stage import plan

MINED = ("mine=positive_aware", "mine.candidates=200", "mine.negatives=1", "mine.relative_margin=0")
LENGTHS = ("loss=matryoshka", "loss.matryoshka_dims=[8]")
TRAINED = {
    "contrastive": (),
    "lora": ("adapter.layers=1", "train.learning_rate=5e-3", *MINED),
    "prefix": ("train.learning_rate=5e-2", *MINED),
}


def trained(cache):
    """Key, weights that a prefix lies beside, and losses of the run's training."""
    (folder,) = (cache / "train").glob("[!.]*")
    weights = {}
    for path in sorted((folder / "model").glob("*.safetensors")):
        weights |= load_file(path)
    losses = [row["loss"] for row in read_dicts(folder / "curves.jsonl") if "loss" in row]
    return folder.name, weights, losses


def assert_same(one, other):
    (key, weights, losses), (other_key, others, other_losses) = one, other
    assert key == other_key and weights.keys() == others.keys() and len(losses) > 10
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(other_losses, losses, atol=1e-4)
    for name, tensor in weights.items():
        if not name.endswith("key.bias"):  # no gradient but rounding, which Adam follows
            np.testing.assert_allclose(others[name], tensor, atol=1e-4)


def scores(report, metric):
    return {row["artifact"]: row["value"] for row in report["scores"] if row["metric"] == metric}


@pytest.mark.parametrize("recipe", TRAINED)
def test_lengths_hard_negatives_and_chunks_with_every_way_to_train(
    recipe, tiny_model, domain, tmp_path
):
    found = []
    for chunk in ("null", "3"):
        line = tiny_runs.overrides(
            tiny_model, domain, tmp_path, recipe, *TRAINED[recipe], *LENGTHS, "train.epochs=3",
            f"hardware.chunk={chunk}", f"paths.cache={tmp_path}/{chunk}", "train.patience=99",
            f"run_dir={tmp_path}/run",
        )  # fmt: skip
        report = pipeline.run(compose([*line, *(["until=train"] if chunk == "null" else [])]))
        found.append(trained(tmp_path / chunk))
    assert_same(*found)
    assert {"tuned@8", "onnx-fp32@8", "onnx-int8-dynamic@8"} < scores(report, "ndcg@10").keys()
    assert BundleInfo.read(tmp_path / "run/bundle").dims == (8,)


def test_chunks_where_one_of_two_sets_has_a_loss_that_can_be_split(tiny_model, domain, tmp_path):
    pairs = tiny_runs.learnable_scores(tmp_path / "scores", tiny_model)
    found = []
    for chunk in ("null", "3"):
        pipeline.run(compose(tiny_runs.overrides(
            tiny_model, domain, tmp_path, "full", "mix=custom", "mix.custom.kind=scored",
            f"mix.custom.train={pairs}/train.jsonl", "+loss@mix.custom.loss=cosent", "until=train",
            "train.epochs=3", f"hardware.chunk={chunk}", f"paths.cache={tmp_path}/{chunk}",
            f"run_dir={tmp_path}/run",
        )))  # fmt: skip
        found.append(trained(tmp_path / chunk))
    assert_same(*found)


def test_lengths_of_scored_pairs(tiny_model, tmp_path):
    pairs = tiny_runs.learnable_scores(tmp_path / "scores", tiny_model)
    report = pipeline.run(compose(tiny_runs.overrides(
        tiny_model, pairs, tmp_path, "matryoshka", "domain.kind=scored", "+loss@loss.loss=cosent",
        "loss.matryoshka_dims=[8]", "train.epochs=2", f"run_dir={tmp_path}/run",
    )))  # fmt: skip
    found = scores(report, "spearman")
    assert min(found["tuned"], found["tuned@8"]) > found["base"]
    card = (tmp_path / "run/README.md").read_text("utf-8")
    assert "Spearman on dev of vectors cut to their first numbers" in card


@pytest.mark.parametrize(
    ("more", "last"),
    [
        (("mine.rounds=2",), "train-2"),
        (("script=mix:0.5",), "train"),
        (("script=s2tw",), "train"),
        (("encode.script=t2s",), "train"),
    ],
)
def test_noise_stays_out_of_what_is_trained_on(more, last, tiny_model, domain, tmp_path):
    line = tiny_runs.overrides(
        tiny_model, domain, tmp_path, "contrastive", "mine.relative_margin=0", "noise=rank",
        "noise.cut=0.4", f"until={last}", *more,
    )  # fmt: skip
    config = compose(line)
    pipeline.run(config)
    planned = plan(pipeline.steps_of(pipeline.resolve(config)), config.paths.cache)
    steps = {each.step.name: each for each in planned}
    pairs = steps[steps[last].step.inputs["pairs"]].folder
    trained_on = {row["id"] for row in read_dicts(pairs / "train.jsonl")}
    (published,) = tmp_path.rglob("dropped/noise/noise.jsonl")  # where a run stops early, too
    told = list(read_dicts(published))
    noise = {row["id"] for row in told if not row["kept"]}
    assert trained_on and noise and trained_on <= {row["id"] for row in told} - noise
