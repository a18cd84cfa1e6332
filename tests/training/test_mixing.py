"""Training on several sets: which batch comes from which, and what each loss is given."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import test_training
import tiny_runs
import torch
from launched import in_processes, run_together

from finetune import model as models
from finetune import pipeline
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.data.beir import read_folder
from finetune.errors import UserError
from finetune.records import Pair, Scored, read_dicts
from finetune.sets import half
from finetune.stage import plan
from finetune.training import train as training
from finetune.training.batching import BucketSampler
from finetune.training.mixing import MixedSampler, Part, examples


def sampler(rows, batch_size=4, seed=0):
    lengths = np.array([n % 7 + len(f"{n}答{n}") for n in range(rows)], np.float64)
    return BucketSampler(lengths, [[n] for n in range(rows)], lambda row: {row}, batch_size, seed)


def batches(mixed, epoch=0):
    mixed.set_epoch(epoch)
    return list(mixed)


def test_each_batch_comes_from_one_set_and_each_set_has_its_share():
    # 30 batches of its own are half of 60; of the others come 18 and 12
    mixed = MixedSampler([sampler(120), sampler(400), sampler(9)], [0.3, 0.2], seed=0)
    found = batches(mixed)
    assert len(found) == len(mixed) == 60
    bounds = [0, 120, 520, 529]
    sources = [{int(np.searchsorted(bounds, row, "right")) for row in batch} for batch in found]
    assert all(len(source) == 1 for source in sources)
    assert Counter(source.pop() for source in sources) == {1: 30, 2: 18, 3: 12}
    rows = [row for batch in found for row in batch]
    assert Counter(row for row in rows if row < 120) == dict.fromkeys(range(120), 1)
    assert {row for row in rows if row >= 520} == set(range(520, 529))  # again and again
    assert len({row for row in rows if 120 <= row < 520}) == 18 * 4


def test_epochs_differ_and_come_again_as_they_were():
    one, other = (MixedSampler([sampler(40), sampler(400)], [0.5], seed=0) for _ in range(2))
    first, second = batches(one, 0), batches(one, 1)
    assert first != second and batches(other, 1) == second and batches(one, 0) == first
    drawn = [{row for batch in epoch for row in batch if row >= 40} for epoch in (first, second)]
    assert drawn[0] != drawn[1]  # a large set is not the same part of it every time


def test_a_set_of_one_row_and_a_share_below_a_batch():
    mixed = MixedSampler([sampler(8), sampler(1)], [0.01], seed=0)
    assert sorted(batches(mixed), key=min)[-1] == [8] and len(mixed) == 3


@pytest.fixture(scope="module")
def select(domain):
    whole = read_folder(domain / "dev")
    return whole.only({query for query in whole.queries if half(query) == "select"})


@pytest.fixture(scope="module")
def rows(domain):
    return [
        Pair(str(n), row["query"], row["positive"], "s")
        for n, row in enumerate(read_dicts(domain / "train.jsonl"))
    ]


def test_fewer_rows_than_processes(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="only 2 training pairs of own for 3 processes; start"):
        examples([Part("own", rows[:2], {})], [], {}, 4, 0, tmp_path)


class Probe(torch.nn.Module):
    """A loss that notes the texts it is given, under its name."""

    seen: dict = {}

    def __init__(self, model, name):
        super().__init__()
        self.model = model
        self.texts = Probe.seen.setdefault(name, [])

    def forward(self, features, labels):
        tokenizer = self.model.tokenizer
        columns = [
            ["".join(tokenizer.convert_ids_to_tokens(ids, True)) for ids in column["input_ids"]]
            for column in features
        ]
        scores = [labels.tolist()] if labels is not None else []
        self.texts += zip(*columns, *scores, strict=True)
        return sum(self.model(column)["sentence_embedding"].sum() for column in features) * 0


def test_each_loss_sees_its_own_set_under_its_own_prompts(tiny_model, select, rows, tmp_path):
    model = models.load(tiny_model)
    model.prompts = {"query": "看", "passage": "说", "document": "说"}
    models.save(model, tmp_path / "base")
    probe = {"_target_": "test_mixing.Probe"}
    scored = [Scored(str(n), rows[n].query, rows[n + 1].query, n / 4, "s") for n in range(16)]
    config = compose(["recipes=full", "train.epochs=1", "train.batch_size=8"])
    plan = training.Plan(config.train, probe | {"name": "own"}, Precision.fp32, "cpu", 1, 42)
    parts = [
        Part("sts", scored, probe | {"name": "sts"}, 0.3),
        Part("law", rows[:8], probe | {"name": "law"}, 0.2, {"query": "问", "passage": "法"}),
    ]
    Probe.seen.clear()
    result = training.train(tmp_path / "base", rows, select, plan, tmp_path, mixed=parts)
    assert result["steps"] == 16  # 8 of its own, half of 16
    assert set(Probe.seen["own"]) == {(f"看{row.query}", f"说{row.positive}") for row in rows}
    assert set(Probe.seen["sts"]) == {(f"看{row.a}", f"看{row.b}", row.score) for row in scored}
    # 问 is no character of this model's
    assert set(Probe.seen["law"]) == {(row.query, f"法{row.positive}") for row in rows[:8]}


def test_what_answers_a_query_in_one_set_is_no_negative_of_it_in_another(tmp_path):
    own = [Pair("1", "甲", "乙", "s"), Pair("2", "丙", "丁", "s")]
    law = [Pair("3", "甲", "戊", "s", ("乙", "己")), Pair("4", "庚", "乙", "s", ("辛", "壬"))]
    known = [Pair("5", "庚", "壬", "s")]
    prompts = {"query": "问", "passage": ""}
    fed = examples(
        [Part("own", own, {}), Part("law", law, {}, 0.5)], known, prompts, 2, 0, tmp_path
    )
    assert fed.dataset["law"]["negative_1"] == ["己", "辛"]  # 乙 answers 甲, 壬 answers 庚
    assert "negative_2" not in fed.dataset["law"].column_names
    # 3 and 4 would bring 乙 into one batch as a negative of 甲
    assert sorted(map(len, batches(fed.batches))) == [1, 2]
    texts = list(fed.texts)
    assert texts[:2] == ["问甲", "乙"] and texts[4:7] == ["问甲", "戊", "己"] and len(texts) == 10
    assert [fed.texts[place] for place in range(len(fed.texts))] == texts  # without all others
    assert fed.texts[1::4] == texts[1::4] and fed.texts[-1] == texts[-1]


def test_an_answer_under_another_name_of_its_law_comes_into_another_batch(tmp_path):
    article = "第八条：民事主体从事民事活动，不得违反法律。"
    rows = [Pair("1", "违法的合同有效吗", f"《民法典》{article}", "s"),
            Pair("2", "民事活动有什么限制", f"中华人民共和国民法典{article}", "s"),
            Pair("3", "甲", "乙", "s"), Pair("4", "丙", "丁", "s")]  # fmt: skip
    fed = examples([Part("own", rows, {})], [], {"query": "", "passage": ""}, 2, 0, tmp_path)
    for epoch in range(12):
        assert [0, 1] not in [sorted(batch) for batch in batches(fed.batches, epoch)]


def test_the_batches_of_a_seed_stay_what_they_were(tmp_path):
    """A cached training must be the one that its key stands for, whoever made it."""
    rows = [
        Pair(str(n), f"问{n % 9}", "答" * (n * 7 % 11) + f"{n}", "s", (f"别{n}", f"{(n + 9) % 20}"))
        for n in range(20)
    ]
    fed = examples([Part("domain", rows, {})], [], {}, 4, 3, tmp_path)
    assert fed.dataset.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert batches(fed.batches, 1) == [
        [12, 10, 9, 6], [2, 7, 18, 4], [0, 8, 19, 5], [11, 16, 13, 15], [1, 3, 17, 14],
    ]  # fmt: skip


def test_an_adapter_reads_the_texts_of_every_set(tiny_model, select, rows, tmp_path):
    config = compose(["recipes=lora", "adapter.layers=1", "train.epochs=1", "train.batch_size=8"])
    plan = training.Plan(
        config.train, dict(test_training.LOSS), Precision.fp32, "cpu", 1, 42, config.adapter
    )
    cosent = {"_target_": "sentence_transformers.sentence_transformer.losses.CoSENTLoss"}
    scored = [Scored(str(n), f"房东{n}", f"老板{n}", n % 2, "s") for n in range(16)]
    part = Part("sts", scored, cosent, 0.5, {"query": "看", "passage": ""})
    result = training.train(tiny_model, rows, select, plan, tmp_path, mixed=[part])
    assert result["steps"] == 16 and result["trainable_parameters"] < result["parameters"]


@pytest.fixture(scope="module")
def arguments(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("mixed")
    scores = tiny_runs.learnable_scores(work / "scores", tiny_model)
    return tiny_runs.overrides(
        tiny_model, domain, work, "full", "mix=custom", f"mix.custom.train={scores}/train.jsonl",
        "mix.custom.kind=scored", "+loss@mix.custom.loss=cosent", "train.epochs=4",
        f"run_dir={work}/run",
    )  # fmt: skip


def test_a_run_on_two_sets(arguments):
    config = compose(arguments)
    report = pipeline.run(config)
    names = [stage["name"] for stage in report["stages"]]
    assert names[:4] == ["sets", "data", "mix", "base"] and names.count("mix") == 1
    assert report["training"]["improved"] and report["training"]["steps"] == 40  # 4 x (8 + 2)
    # The first texts of 4 in 10 pairs end as the domain's evaluation queries do, and are them.
    mixed = report["data"]["mixed"]["custom"]
    assert (mixed["read"], mixed["pairs"]) == (320, 192)
    card = (config.run_dir / "README.md").read_text("utf-8")
    assert "Mixed in: custom, 192 pairs (sources: train)" in card
    again = pipeline.run(config)
    assert all(stage["cached"] for stage in again["stages"])


def test_two_processes_train_on_two_sets_as_one_does(tiny_model, domain, tmp_path):
    line = tiny_runs.overrides(
        tiny_model, domain, tmp_path, "full", "mix=custom",
        f"mix.custom.train={domain}/train.jsonl",
        "mix.custom.weight=0.3", "train.epochs=1", "until=train", f"run_dir={tmp_path}/run",
    )  # fmt: skip
    tiny_runs.run(line)
    (alone,) = (tmp_path / "cache/train").glob("[!.]*")
    assert in_processes(run_together, line) == [0, 0]
    (shared,) = set((tmp_path / "cache/train").glob("[!.]*")) - {alone}
    one, two = ([row["loss"] for row in read_dicts(folder / training.CURVES) if "loss" in row]
                for folder in (alone, shared))  # fmt: skip
    assert len(one) == 11 and two == pytest.approx(one, abs=1e-5)  # 8 of its own, 3 of 11


def keys(config):
    return {each.step.name: each.key for each in plan(pipeline.steps_of(config), Path("cache"))}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"columns": {"a": "b"}}, "mix"),
        ({"weight": 0.3}, "train"),
        ({"loss": None}, "train"),
        ({"prompts": {"query": "x", "passage": ""}}, "train"),
    ],
)
def test_what_a_change_to_a_mixed_set_makes_anew(arguments, changes, first):
    config = pipeline.resolve(compose(arguments))
    mix = {"custom": dataclasses.replace(config.mix["custom"], **changes)}
    before, after = keys(config), keys(dataclasses.replace(config, mix=mix))
    changed = [name for name in before if before[name] != after[name]]
    assert changed[0] == first and "train" in changed and "data" not in changed


def test_new_content_of_a_mixed_file_changes_its_key(arguments):
    config = pipeline.resolve(compose(arguments))
    before = keys(config)
    with Path(str(config.mix["custom"].train)).open("a", encoding="utf-8") as file:
        file.write('{"a": "新", "b": "的", "score": 1}\n')
    after = keys(config)
    changed = [name for name in before if before[name] != after[name]]
    assert changed[0] == "mix" and "train" in changed and "data" not in changed


def test_the_general_set_is_not_trained_on_either(arguments, domain, tmp_path):
    general = shutil.copytree(domain / "dev", tmp_path / "general")
    config = pipeline.resolve(compose([*arguments, f"evaluate.general={general}"]))
    (mix,) = [step for step in pipeline.steps_of(config) if step.name == "mix"]
    assert mix.inputs == {"sets": "sets", "general": "general"}


def test_no_mix_is_no_step(domain, tiny_model, tmp_path):
    config = compose(tiny_runs.overrides(tiny_model, domain, tmp_path, "full"))
    assert "mix" not in [step.name for step in pipeline.steps_of(config)]
