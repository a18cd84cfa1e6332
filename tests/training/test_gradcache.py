import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

from finetune import model as models
from finetune import pipeline
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.machine import estimate, hardware
from finetune.machine.estimate import chunk_within
from finetune.records import Mined, Pair, read_dicts
from finetune.sets import ScoredSet
from finetune.training import gradcache, losses, trainer
from finetune.training.gradcache import shrinking
from finetune.training.memory import is_out_of_memory

LIBRARY = "sentence_transformers.sentence_transformer.losses."
CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 400000000 bytes. Error code 12 (Cannot allocate memory)"
)


def attempts(room: int, chunk: int | None, **batch) -> list[int | None]:
    """What is tried on a machine with room for so many texts' activations."""
    tried = []

    def attempt(size):
        tried.append(size)
        held = min(size, batch["batch"]) if size else batch["batch"] * batch["columns"]
        if held > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return "trained"

    assert shrinking(attempt, chunk, **batch) == "trained"
    return tried


@pytest.mark.parametrize(
    ("room", "chunk", "expected"),
    [
        (200, 128, [None]),  # 32 rows of 4 texts: the chunk holds them all
        (200, 127, [127]),
        (200, None, [None]),
        (127, None, [None, 32]),  # no more than a column at once
        (31, 128, [None, 32, 16]),
        (31, 64, [64, 16]),  # 64 held a column of 32 already
        (1, 7, [7, 3, 1]),
    ],
)
def test_the_chunk_is_halved_until_it_fits(room, chunk, expected):
    assert attempts(room, chunk, batch=32, columns=4, can_split=True) == expected


def test_what_cannot_be_made_smaller_is_told_with_a_way_out():
    with pytest.raises(UserError, match=r"one text at a time; lower train.max_length"):
        attempts(0, None, batch=32, columns=2, can_split=True)
    with pytest.raises(UserError, match=r"train.batch_size=32.*lower train.batch_size"):
        attempts(63, 16, batch=32, columns=2, can_split=False)


def test_where_smaller_chunks_would_not_help_none_are_tried(monkeypatch):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.Guard, "values", full)
    tried = []

    def attempt(chunk):
        tried.append(chunk)
        trainer.Guard(ScoredSet("s", ()), Precision.fp32)(None)

    with pytest.raises(UserError, match=r"while the guard encodes; lower hardware.encode_tokens"):
        shrinking(attempt, 64, batch=64, columns=2, can_split=True)
    assert tried == [64]


def test_in_a_mixed_set_that_cannot_work_in_chunks_the_batch_is_named(tiny_model, monkeypatch):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", full)
    model = models.load(tiny_model)
    mnrl, cosent = (losses.build({"_target_": LIBRARY + name}, model)
                    for name in ("MultipleNegativesRankingLoss", "CoSENTLoss"))  # fmt: skip
    of = trainer.Trainer.__new__(trainer.Trainer)
    of.loss = {"own": mnrl, "sts": cosent}
    of.args = SimpleNamespace(per_device_train_batch_size=64)
    with pytest.raises(UserError, match=r"batch_size=64 in a batch of sts, whose loss cannot"):
        of.training_step(model, {"dataset_name": "sts"})
    with pytest.raises(torch.cuda.OutOfMemoryError):  # chunks help here
        of.training_step(model, {"dataset_name": "own"})


def test_of_several_processes_none_starts_again_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"one of 2 processes, with 32 texts.*hardware.chunk=16"):
        attempts(31, 32, batch=32, columns=2, can_split=True)


def test_a_loss_that_cannot_be_split_is_given_no_chunk():
    assert attempts(64, 16, batch=32, columns=2, can_split=False) == [None]


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError(CPU_ERROR), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
        (OSError("Cannot allocate memory"), False),  # of a fork or a map, not of a batch
    ],
)
def test_only_memory_that_ran_out_is_caught(error, out_of_memory):
    assert is_out_of_memory(error) is out_of_memory

    def attempt(chunk):
        if chunk is None:
            raise error
        return chunk

    if out_of_memory:
        assert shrinking(attempt, None, batch=8, columns=2, can_split=True) == 8
    else:
        with pytest.raises(type(error)):
            shrinking(attempt, None, batch=8, columns=2, can_split=True)


def test_a_request_that_no_memory_can_meet_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46, dtype=torch.uint8)  # 64 TB
    assert is_out_of_memory(caught.value)


# --- in a run ---


@pytest.fixture(scope="module")
def line(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(name, *more):
        return tiny_runs.overrides(
            tiny_model, domain, work, "full", f"paths.cache={work}/{name}", "until=train",
            "train.epochs=3", f"run_dir={work}/run-{name}", *more,
        )  # fmt: skip

    return make, work


@pytest.fixture(scope="module")
def whole(line):
    make, work = line
    pipeline.run(compose(make("whole", "hardware.chunk=null")))
    return trained(work / "whole")


def trained(cache):
    (folder,) = (cache / "train").glob("[!.]*")
    losses = {row["step"]: row["loss"] for row in read_dicts(folder / "curves.jsonl")
              if "loss" in row}  # fmt: skip
    return folder.name, load_file(folder / "model/model.safetensors"), losses


def assert_same(one, other):
    assert one[0] == other[0]  # the key
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        # The gradient of attention keys' biases is zero but for rounding, which Adam scales up.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(other[1][name], tensor, rtol=0, atol=1e-3)
    assert one[2].keys() == other[2].keys()
    # With fewer negatives the losses would be lower by whole units.
    np.testing.assert_allclose([*other[2].values()], [*one[2].values()], atol=0.02)


def test_a_run_in_chunks_has_the_key_and_the_weights_of_a_run_in_one(line, whole):
    make, work = line
    pipeline.run(compose(make("chunks", "hardware.chunk=3")))
    assert_same(whole, trained(work / "chunks"))


def test_a_chunk_that_the_machine_has_no_memory_for_is_lowered_before(
    line, whole, monkeypatch, caplog
):
    make, work = line
    needs = []

    def for_two(of, available):
        if not of.all_rows:  # the plan's forecast
            return of.chunk
        assert available == 1024 and (of.rows, of.chunk, of.all_rows) == (8, None, 64)
        needs.append(estimate.training(dataclasses.replace(of, chunk=2)).total)
        return chunk_within(of, needs[-1])

    monkeypatch.setattr(hardware, "available_memory", lambda: 1024)
    monkeypatch.setattr(estimate, "chunk_within", for_two)
    with caplog.at_level(logging.WARNING, "finetune"):
        pipeline.run(compose(make("small", "hardware.chunk=null")))
    (told,) = [r.getMessage() for r in caplog.records if "activations" in r.getMessage()]
    assert told.startswith("train: 16 texts' activations at once would take 0.6 GiB")
    assert told.endswith("going on with 2 (hardware.chunk), same batches") and len(needs) == 1
    assert_same(whole, trained(work / "small"))


def test_what_fits_stays_as_it_is(tiny_model, monkeypatch, caplog):
    pairs = [Pair(str(n), "房" * n, "押" * n, "s") for n in range(1, 40)]
    assert gradcache._widths(pairs, tiny_model, 32) == [32, 32]
    assert gradcache._widths([Mined("1", "房东", "押", ("商品", "店"), (0, 0), "s"), *(
        Mined("2", "房", "押金" * 5, ("商",), (0,), "s") for _ in range(2))], tiny_model, 32
    ) == [4, 12, 4]  # fmt: skip
    config = compose(["recipes=full", "hardware.processes=1"])
    settings = {"train": config.train, "adapter": {}, "precision": "fp32", "device": "cpu",
                "attention": "lean", "processes": 1}  # fmt: skip
    for free in (None, 2**40):
        monkeypatch.setattr(hardware, "available_memory", lambda free=free: free)
        assert gradcache.within_memory(128, [pairs], settings, tiny_model) == 128
        assert gradcache.within_memory(None, [pairs], settings, tiny_model) is None
    monkeypatch.setattr(hardware, "available_memory", lambda: 1024)
    assert gradcache.within_memory(None, [pairs], settings, tiny_model) == 1
    assert len(caplog.messages) == 1


def test_where_memory_runs_out_the_run_goes_on_from_its_last_checkpoint(
    line, whole, monkeypatch, caplog
):
    make, work = line
    forward, sizes = SentenceTransformer.forward, []

    def limited(self, features, **kwargs):
        rows = len(features["input_ids"])
        if self.training and torch.is_grad_enabled():
            sizes.append(rows)
            if len(sizes) > 25 and rows > 3:  # 2 forward passes a step; a checkpoint every 5
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(self, features, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "forward", limited)
    with caplog.at_level(logging.WARNING, "finetune"):
        pipeline.run(compose(make("short", "hardware.chunk=null", "train.checkpoints=5")))
    told = [r.getMessage() for r in caplog.records if "memory ran out" in r.getMessage()]
    assert [message.split("going on with ")[1].split()[0] for message in told] == ["8", "4", "2"]
    assert max(sizes[28:]) == 2
    # 24 steps, the first 10 not again: of 8 rows and 2 columns each in chunks of 2.
    assert len(sizes) == 26 + 1 + 1 + (24 - 10) * 2 * 4
    unbroken = trained(work / "short")
    assert_same(whole, unbroken)


def test_what_cuda_itself_holds_is_counted_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10)
    whole = estimate.PROCESS + estimate.RUNTIME  # in each estimate, and no longer free
    assert gradcache._free("cuda") == 1000 + 20 + whole
