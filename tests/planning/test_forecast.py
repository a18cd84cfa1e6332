import dataclasses
import json
import shutil
from pathlib import Path

import hub_cache
import huggingface_hub
import numpy as np
import pytest
import tiny_runs

from finetune import pipeline
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.machine import estimate, hardware, rates
from finetune.machine.estimate import Training
from finetune.machine.geometry import STARTER, Geometry, forward_flops
from finetune.planning import forecast
from finetune.planning.costs import Cost
from finetune.planning.facts import Facts
from finetune.planning.forecast import costs, predict
from finetune.records import read_dicts, write_jsonl
from finetune.stage import MANIFEST, Step, plan
from finetune.training.losses import in_chunks

TINY = (2, 32, 64, 4)  # layers, hidden, feed-forward, heads


@pytest.fixture
def planned(tiny_model, tiny_domain, tmp_path):
    """Plan a run on the tiny domain; nothing of it is cached."""

    def make(*more, recipe="contrastive"):
        line = tiny_runs.overrides(tiny_model, tiny_domain, tmp_path, recipe, *more)
        config = pipeline.resolve(compose(line))
        return plan(pipeline.steps_of(config), config.paths.cache)

    return make


def step(planned, name):
    return next(each for each in planned if each.step.name == name)


def predicted(planned, name):
    return predict(step(planned, name).step, Facts(planned))


def finish(planned, name, **files):
    """Pretend that a step has been done."""
    folder = step(planned, name).folder
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    for file, rows in files.items():
        write_jsonl(folder / f"{file}.jsonl", rows)


# --- what is known ---


def test_a_local_model_tells_its_geometry_before_any_step(planned, tiny_model):
    geometry = Facts(planned()).geometry
    assert (geometry.layers, geometry.hidden, geometry.ffn, geometry.heads) == TINY
    config = json.loads((tiny_model / "config.json").read_text())
    assert geometry == Geometry.of(config)


@pytest.mark.parametrize("content", ["", "[1]", "{}", "\ud800"])
def test_a_damaged_model_is_left_to_the_base_step(planned, tiny_model, tmp_path, content):
    shutil.copytree(tiny_model, tmp_path / "damaged")
    config = tmp_path / "damaged/config.json"
    config.write_text(content, "utf-8", errors="surrogatepass")
    (tmp_path / "damaged/tokenizer.json").write_text("{")
    plan_ = planned(f"model.path={tmp_path}/damaged")
    assert Facts(plan_).geometry is None and predicted(plan_, "train") == Cost()


def test_a_hub_tells_the_geometry_of_a_model_that_is_not_here_yet(
    planned, tiny_model, tmp_path, monkeypatch
):
    hub_cache.put(tmp_path / "hub", tiny_model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    away = planned("model=custom", "model.path=null", "model.hub=huggingface",
                   "model.id=owner/name", f"model.revision={hub_cache.COMMIT}")  # fmt: skip
    assert Facts(away).geometry.layers == 2 and predicted(away, "train").seconds


def test_the_starters_geometry_is_known_and_one_that_nobody_has_is_not(planned):
    starter = planned("model=starter", "model.path=null", "model.prompts={query: '', passage: ''}")
    assert Facts(starter).geometry == STARTER
    away = planned("model=m3e-base", "model.path=null")
    assert Facts(away).geometry is None
    for name in ("base", "export-base", "embed", "mine", "train", "export", "evaluate"):
        assert predicted(away, name) == Cost()
    assert predicted(away, "pool").seconds


def test_the_base_tells_its_geometry_once_it_is_here(planned, tiny_model):
    away = planned("model=m3e-base", "model.path=null")
    finish(away, "base")
    (step(away, "base").folder / "model").symlink_to(tiny_model)
    assert Facts(away).geometry.layers == 2
    assert Facts(away).lengths(["房东退押金", "\ud800"]).tolist() == [7, 3]


def test_lengths_are_counted_by_characters_until_the_tokeniser_is_here(planned):
    starter = Facts(planned("model=starter", "model.path=null"))
    assert starter.lengths(["一" * 100, ""]).tolist() == [72, 2]


def test_rows_to_be_mined_get_columns_as_long_as_their_positives(planned):
    plan_ = planned("mine.negatives=3")
    count, lengths = Facts(plan_).rows(step(plan_, "train").step)
    assert count == 48 and lengths.shape == (48, 5)
    assert (lengths[:, 2:] == lengths[:, 1:2]).all() and (lengths[:, 0] != lengths[:, 1]).any()


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        (["script=mix:0.5"], 48),
        (["script=both"], 96),
        (["script=both", "augment=typos", "augment.share=0.5"], 144),
    ],
)
def test_copies_count_before_they_are_made(planned, more, rows):
    plan_ = planned(*more)
    assert Facts(plan_).rows(step(plan_, "train").step)[0] == rows


def test_mined_rows_are_taken_as_they_are(planned):
    plan_ = planned()
    row = {"query": "房东", "positive": "押金合同", "negatives": ["网店商品质量"]}
    finish(plan_, "mine", train=[row] * 4 + [{**row, "negatives": ["网店", "商品"]}])
    count, lengths = Facts(plan_).rows(step(plan_, "train").step)
    assert count == 5 and lengths[0].tolist() == [4, 6, 8] and lengths[4].tolist() == [4, 6, 4]


# --- costs ---


def test_every_step_of_a_known_run_is_forecast(planned, tmp_path):
    plan_ = planned()
    found = costs(plan_, tmp_path, "here")
    assert list(found) == [each.step.name for each in plan_]
    assert all(cost.seconds > 0 for cost in found.values())
    for name in ("base", "export", "embed", "train", "evaluate"):
        assert found[name].memory > estimate.PROCESS


def test_cached_steps_cost_nothing(planned, tmp_path):
    plan_ = planned()
    finish(plan_, "base")
    assert "base" not in costs(plan_, tmp_path, "here")


def test_training_by_hand(planned):
    plan_ = planned("train.epochs=2", "train.max_length=8", recipe="full")
    facts = Facts(plan_)
    geometry = facts.geometry
    count, lengths = facts.rows(step(plan_, "train").step)
    texts = np.minimum(lengths, 8).ravel().tolist()
    assert facts.guarded() == 40  # the whole corpus, which has fewer than 300 texts
    flops = 1.1 * 2 * 3 * forward_flops(geometry, texts)
    flops += (1 + 5) * 40 * forward_flops(geometry, [9])  # which the guard reads whole
    seconds = flops / 52e9 + 8
    cost = predicted(plan_, "train")
    assert count == len(lengths) and cost.seconds == pytest.approx(seconds)
    of = Training(geometry, 8, (8, 8), Precision.fp32, "cpu", "lean", uneven=False, all_rows=48)
    assert cost.memory == estimate.training(of).total
    assert cost.disk == 10 * geometry.weights


def test_texts_are_cut_at_the_length_of_training(planned):
    short = predicted(planned("train.max_length=8"), "train")
    longer = predicted(planned(), "train")
    assert short.seconds < longer.seconds and short.memory < longer.memory


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("train.epochs=60", "train"),
        ("mine.negatives=4", "train"),
        ("export.parity_texts=5000", "export"),
        ("evaluate.speed_texts=5000", "evaluate"),
        ("evaluate.speed_texts=5000", "evaluate-base"),
    ],
)
def test_more_work_takes_more_time(planned, override, name):
    assert predicted(planned(override), name).seconds > predicted(planned(), name).seconds


@pytest.mark.parametrize(
    "override", ["train.batch_size=16", "train.dropout=0.1", "mine.negatives=4"]
)
def test_larger_batches_take_more_memory(planned, override):
    assert predicted(planned(override), "train").memory > predicted(planned(), "train").memory


def test_two_scripts_are_two_corpora_unless_they_are_encoded_as_one(planned):
    def seconds(*more):
        return predicted(planned(*more), "evaluate").seconds

    assert seconds("evaluate.scripts=true") > seconds("encode.script=t2s") == seconds()


def test_what_to_lower_is_named_as_it_was_set(planned):
    plan_ = planned()
    cost = predicted(plan_, "train")
    assert cost.lower == "train.batch_size=8 or train.max_length=32" and not cost.gpu
    one = step(plan_, "train").step
    chunked = predict(dataclasses.replace(one, outside={"chunk": 4}), Facts(plan_))
    assert chunked.lower == "hardware.chunk=4"
    assert chunked.memory < cost.memory and chunked.seconds > cost.seconds


def test_a_chunk_is_forecast_as_training_lowers_it(planned, monkeypatch):
    plan_ = planned()
    whole = predicted(plan_, "train")
    facts, one = Facts(plan_), step(plan_, "train").step
    four = predict(dataclasses.replace(one, outside={"chunk": 4}), facts)
    assert four.memory < whole.memory
    monkeypatch.setattr(hardware, "available_memory", lambda: four.memory)
    assert predicted(plan_, "train") == four
    monkeypatch.setattr(hardware, "available_memory", lambda: 1024)
    least = predicted(plan_, "train")  # a text at once, and still too much
    assert least.memory < four.memory and least.lower == whole.lower


@pytest.mark.parametrize("recipe", ["lora", "prefix"])
def test_an_adapter_takes_less_of_everything(planned, recipe):
    more = ["adapter.layers=1"] if recipe == "lora" else []
    cost, full = predicted(planned(*more, recipe=recipe), "train"), predicted(planned(), "train")
    assert cost.memory < full.memory and cost.seconds < full.seconds and cost.disk < full.disk


def test_several_processes_share_a_batch(planned, monkeypatch):
    plan_ = planned()
    one = step(plan_, "train").step
    four = dataclasses.replace(one, settings={**one.settings, "processes": 4})
    facts = Facts(plan_)
    assert predict(four, facts).memory < predict(one, facts).memory
    alone = predict(one, facts).seconds
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert predict(one, facts).seconds == alone  # the threads of one machine
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert predict(one, facts).seconds - 8 == pytest.approx((alone - 8) / 4)


def test_unreadable_data_leaves_times_open_and_memory_at_its_largest(planned, tiny_domain):
    (tiny_domain / "train.jsonl").write_text("no json\n")
    plan_ = planned()
    cost = predicted(plan_, "train")
    assert cost.seconds is None and predicted(plan_, "embed").seconds is None
    of = Training(Facts(plan_).geometry, 8, (32, 32), Precision.fp32, "cpu", "lean")
    assert cost.memory == estimate.training(of).total


def test_a_step_that_nobody_knows(planned):
    def other(settings, inputs, out):
        raise AssertionError

    assert predict(Step("other", other, 1, {}), Facts(planned())) == Cost()


def test_on_a_gpu_the_memory_is_the_gpus_and_onnx_stays_on_the_cpu(planned, monkeypatch):
    monkeypatch.setattr(rates.hardware, "fitting", lambda device: "a10")
    plan_ = planned()
    name = {}
    for each in ("train", "evaluate", "export"):
        one = step(plan_, each).step
        settings = {**one.settings, "device": "cuda", "precision": Precision.bf16}
        name[each] = predict(dataclasses.replace(one, settings=settings), Facts(plan_))
    assert name["train"].gpu and name["evaluate"].gpu and not name["export"].gpu
    assert rates.rate("train", "cuda", 2, "bf16") == 0.25 * 125e12
    assert rates.rate("onnx-fp32", "cuda", 2) == rates.rate("onnx-fp32", "cpu", 2)


# --- what earlier runs took ---


def test_times_of_earlier_runs_correct_the_table(planned, tmp_path):
    plan_ = planned()
    table = costs(plan_, tmp_path, "here")
    forecast.remember(plan_, {"train": 2 * table["train"].seconds}, tmp_path, "here")
    again = costs(plan_, tmp_path, "here")
    assert again["train"].seconds == pytest.approx(2 * table["train"].seconds, rel=0.01)
    assert again["embed"] == table["embed"]
    assert costs(plan_, tmp_path, "elsewhere") == table
    assert again["train"].memory == table["train"].memory


def test_what_was_remembered_is_the_table_without_corrections(planned, tmp_path):
    plan_ = planned()
    for _ in range(2):
        forecast.remember(plan_, {"train": 100.0}, tmp_path, "here")
    rows = list(read_dicts(tmp_path / "times.jsonl"))
    assert rows[0] == rows[1] and rows[0]["took"] == 100.0
    assert costs(plan_, tmp_path, "here")["train"].seconds == pytest.approx(100, rel=0.01)


def test_the_last_five_count_and_a_line_cut_short_does_not(tmp_path):
    for took in (90.0, 90.0, 90.0, 10.0, 20.0, 30.0, 40.0, 50.0):
        rates.remember(tmp_path, "train", "here", 10.0, took)
    with (tmp_path / "times.jsonl").open("a") as file:
        file.write('{"step": "tra')
    assert rates.corrections(tmp_path, "here") == {"train": 3.0}
    rates.remember(tmp_path, "train", "here", 10.0, 99.0)  # on the same line, lost with it
    assert rates.corrections(tmp_path, "here") == {"train": 3.0}
    rates.remember(tmp_path, "train", "here", 10.0, 50.0)
    assert rates.corrections(tmp_path, "here") == {"train": 4.0}
    assert rates.corrections(tmp_path / "none", "here") == {}


def test_sets_that_are_mixed_in_add_batches_of_their_own(planned, tiny_domain):
    more = [
        "mix=custom",
        f"mix.custom.train={tiny_domain / 'train.jsonl'}",
        "mix.custom.weight=0.5",
    ]
    alone, mixed = (planned(*overrides, recipe="full") for overrides in ([], more))
    cost, both = predicted(alone, "train"), predicted(mixed, "train")
    guard = 6 * 40 * forward_flops(Facts(alone).geometry, [9]) / 52e9  # as long as before
    assert both.seconds - 8 - guard == pytest.approx(2 * (cost.seconds - 8 - guard), rel=0.05)
    assert both.memory > cost.memory


def test_a_loss_that_cannot_be_split_is_given_no_chunk(planned):
    plan_ = planned()
    one = dataclasses.replace(step(plan_, "train").step, outside={"chunk": 4})
    facts, losses = Facts(plan_), "sentence_transformers.sentence_transformer.losses."
    mnrl = one.settings["loss"]
    for loss, splits in (
        (mnrl, True), ({"_target_": losses + "MatryoshkaLoss", "loss": mnrl}, True),
        ({"_target_": losses + "CoSENTLoss"}, False),
        ({"_target_": losses + "AdaptiveLayerLoss", "loss": mnrl}, False),
    ):  # fmt: skip
        cost = predict(dataclasses.replace(one, settings={**one.settings, "loss": loss}), facts)
        assert (cost.lower == "hardware.chunk=4") == splits == in_chunks(loss)


def test_a_student_is_forecast_by_what_is_left_of_its_teacher(planned):
    plan_ = planned("distill.layers=1", "distill.texts=60", recipe="distill")
    facts = Facts(plan_)
    sizes = {name: facts.geometry_of(step(plan_, name).step).layers
             for name in ("embed", "train", "export", "evaluate-base", "evaluate")}  # fmt: skip
    assert sizes == {"embed": 2, "train": 1, "export": 1, "evaluate-base": 2, "evaluate": 1}
    count, lengths = facts.rows(step(plan_, "train").step)
    assert count == 60 and lengths.shape == (96, 1)  # both texts of 48 pairs
    everything = planned("distill.layers=1", "distill.texts=1000", recipe="distill")
    found = Facts(everything).rows(step(everything, "train").step)
    assert found[0] == 2 * 48 + 40 and found[1].shape == (136, 1)
    assert all(cost.seconds and cost.seconds > 0 for cost in costs(plan_, Path(), "").values())


# --- other steps ---


@pytest.fixture
def general(tiny_domain, tmp_path):
    """A general set: the tiny domain's evaluation folder under another name."""
    folder = tmp_path / "general"
    shutil.copytree(tiny_domain / "dev", folder)
    return f"evaluate.general={folder}"


def test_the_general_set_is_counted_without_the_data_step(planned, general, tmp_path):
    facts = Facts(planned(general))
    assert facts.general.passages.count == 40 and sum(facts.general.queries.values()) == 24
    assert Facts(planned()).general is None
    unread = planned(general)
    (tmp_path / "general/corpus.jsonl").unlink()
    (tmp_path / "general/corpus.jsonl.gz").write_bytes(b"no gzip")
    assert Facts(unread).general is None


def test_scoring_the_general_set_by_hand(planned, general):
    plan_ = planned(general)
    facts = Facts(plan_)
    texts = [row[0] for row in facts.general.passages.sample]
    flops = forward_flops(facts.geometry, facts.lengths(texts).tolist()) / 40 * 64
    for name in ("evaluate-base-general", "evaluate-general"):
        assert predicted(plan_, name).seconds == pytest.approx(2 + flops / 150e9)


def test_merging_takes_as_long_as_there_are_weights(planned, general):
    few, many = (
        predicted(planned(general, "merge.weights=" + weights), "merge")
        for weights in ("[0.5]", "[0.2,0.4,0.6,0.8]")
    )
    assert (many.seconds - 4) / (few.seconds - 4) == pytest.approx(6 / 3)
    assert few.memory == many.memory > predicted(planned(general), "evaluate-general").memory


def test_pairs_to_be_made_are_counted_at_most(planned):
    only = planned("generate.pairs=30", "domain.train=null", recipe="documents")
    facts = Facts(only)
    count, lengths = facts.rows(step(only, "train").step)
    assert count == 30 and lengths.shape == (40, 2)  # as the corpus's 40 passages
    assert predicted(only, "train").seconds and predicted(only, "generate").seconds == 3
    joined = planned("generate=documents", "generate.pairs=30", recipe="full")
    assert Facts(joined).rows(step(joined, "train").step)[0] == 48 + 30
    assert (lengths[:, 0] <= 32).all() and (lengths[:, 0] <= lengths[:, 1]).all()
    everything = planned("generate=identity", "generate.pairs=1000", recipe="full")
    assert Facts(everything).rows(step(everything, "train").step)[0] == 40
    assert Facts(planned("generate=documents", "limit=5")).texts is not None


def test_a_cross_encoder_leaves_the_time_of_mining_open(planned):
    assert predicted(planned("mine.filter=owner/name@main"), "mine") == Cost()


def test_encoding_holds_the_vectors_of_a_part_and_writes_all(planned, monkeypatch):
    whole = predicted(planned(), "embed")
    assert whole.disk == 4 * 32 * (48 + 48 + 40)  # queries, positives, passages
    monkeypatch.setattr(forecast, "PART", 10)
    assert whole.memory - predicted(planned(), "embed").memory == 4 * 32 * (48 - 10)


def test_the_corpus_is_encoded_once_for_all_pairs_and_anew_with_each_rounds_model(planned):
    plan_ = planned("mine.rounds=2")
    corpus, first, second = (predicted(plan_, name) for name in ("corpus", "embed", "embed-2"))
    assert corpus.disk == 4 * 32 * 40 and first.disk == second.disk
    assert second.seconds - first.seconds == pytest.approx(corpus.seconds - 2)


WRITER = ["generate=documents", "writer.url=http://a/v1", "writer.model=m",
          "writer.prompt='{passage}'", "evaluate.currency=CNY"]  # fmt: skip
UNLIMITED = "~writer.options.max_tokens=500"
PRICES = ["writer.price_in=1e5", "writer.price_out=2e5"]


def asked(planned, *more):
    return predicted(planned(*WRITER, *more, recipe="full"), "generate").asks


def test_what_written_queries_cost(planned):
    line = ["generate.pairs=60"]
    # A sixth of the pairs; passages in prompts of 9 characters, replies of 500 tokens at most.
    length = sum(len(row[0]) for row in Facts(planned()).data.passages.sample) / 40
    tokens_in = 0.65 * 10 * (9 + length)
    words = (f"at most 10 requests to http://a/v1 of about {float(f'{tokens_in:.2g}'):,.0f} tokens "
             "and at most 5,000 in reply")  # fmt: skip
    assert asked(planned, *line) == words
    paid = (1e5 * tokens_in + 2e5 * 5000) / 1e6
    assert asked(planned, *line, *PRICES) == (
        f"{words}, up to about {paid:,.2f} CNY without repetitions"
    )
    assert "at most 5 requests" in asked(planned, *line, "writer.queries=2")
    assert "at most 3 requests" in asked(planned, *line, "writer.limit=3")
    cost = predicted(planned(*WRITER, *line, recipe="full"), "generate")
    assert cost.seconds is None and cost.memory is None
    assert predicted(planned("generate=documents", recipe="full"), "generate").asks == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["writer.options.max_tokens=700"], "at most 7,000 in reply"),
        ([UNLIMITED, "+writer.options.max_completion_tokens=50"], "at most 500 in reply"),
        ([UNLIMITED], "about 200 in reply"),  # of 30 characters
    ],
)
def test_replies_are_as_long_as_the_option_allows(planned, options, words):
    assert words in asked(planned, "generate.pairs=60", *options)


def test_at_most_the_passages_that_there_are_are_asked_about(planned, tmp_path):
    data = Facts(planned()).data  # positives may be in no corpus
    count = data.passages.count + data.rows.count
    assert f"at most {count} requests" in asked(planned, "generate.pairs=6000")
    (tmp_path / "texts.txt").write_text("\n".join(["租" * 6000, "押" * 2000]), "utf-8")
    words = asked(planned, f"domain.documents={tmp_path}/texts.txt", *PRICES)
    tokens_in = round(0.65 * (2 * 9 + 8000), -2)
    assert f"at most 2 requests to http://a/v1 of about {tokens_in:,.0f} tokens" in words


def test_what_of_the_documents_is_not_read_is_told_by_the_step_alone(planned, tmp_path, caplog):
    (tmp_path / "manuals").mkdir()
    (tmp_path / "manuals/a.md").write_text("# 退货\n七天内可以退货。", "utf-8")
    (tmp_path / "manuals/b.md").write_bytes("退货".encode("gb18030"))
    (tmp_path / "manuals/c.pdf").touch()
    words = asked(planned, f"domain.documents={tmp_path}/manuals", "check.bad_rows=drop")
    assert "at most 1 requests" in words and caplog.text == ""
