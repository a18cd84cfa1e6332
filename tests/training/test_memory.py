"""Memory that runs out in one of two processes, which train in chunks; gloo, tiny models."""

import numpy as np
import pytest
import tiny_runs
import torch
from launched import in_processes, run_together
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from finetune import pipeline
from finetune.config.compose import compose
from finetune.machine import processes
from finetune.records import read_dicts
from finetune.training import memory

ROOM = 10  # passes in which everything fits


def lack() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def pass_forward(original, where: str, room: int, folder, self, features, **more):
    """A forward pass that lacks memory for more than ``room`` rows; notes how many it has."""
    if not self.training:
        return original(self, features, **more)
    kind = "embedding" if not torch.is_grad_enabled() else "forward"
    count, rows = passes(folder, processes.rank(), kind), len(features["input_ids"])
    with (folder / f"{kind}-{processes.rank()}").open("a") as notes:
        notes.write(f"{rows}\n")
    short = processes.rank() == 1 and len(count) >= ROOM and rows > room
    if short and where == kind:
        lack()
    found = original(self, features, **more)
    if short and where == "backward" and kind == "forward":
        found["sentence_embedding"].register_hook(lambda gradient: lack())
    return found


def passes(folder, rank: int, kind: str) -> list[int]:
    path = folder / f"{kind}-{rank}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def run_short(line, where: str, room: int, folder) -> int:
    original = SentenceTransformer.forward

    def forward(self, features, **more):
        return pass_forward(original, where, room, folder, self, features, **more)

    SentenceTransformer.forward = forward
    return run_together(line)


def run_short_at_the_exchange(line) -> int:
    def calculate_loss(self, *args, **more):
        return lack() if processes.first() else loss(self, *args, **more)

    loss = memory.Chunked.__base__.calculate_loss
    memory.Chunked.__base__.calculate_loss = calculate_loss
    return run_together(line)


@pytest.fixture(scope="module")
def line(tiny_model, domain, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs")

    def make(name, *more):
        if "mix=custom" in more:
            more = (*more, f"mix.custom.train={domain}/train.jsonl")
        return tiny_runs.overrides(
            tiny_model, domain, work, "full", f"paths.cache={work}/{name}", "until=train",
            "train.epochs=2", "train.checkpoints=2", f"run_dir={work}/run-{name}", *more,
        )  # fmt: skip

    return make, work


LOSSES = {
    "mnrl": (),
    "matryoshka": ("loss=matryoshka", "loss.matryoshka_dims=[8]"),
    "two sets": ("mix=custom", "mix.custom.weight=0.5"),
}


@pytest.fixture(scope="module")
def alone(line):
    """By loss, what one process with all the memory it needs makes of the same batches."""
    make, work = line
    for loss, more in LOSSES.items():
        pipeline.run(compose(make(f"alone-{loss}", *more)))
    return {loss: trained(work / f"alone-{loss}") for loss in LOSSES}


def trained(cache):
    (folder,) = (cache / "train").glob("[!.]*")
    losses = [(row["step"], row["loss"]) for row in read_dicts(folder / "curves.jsonl")
              if "loss" in row]  # fmt: skip
    return dict(losses), load_file(folder / "model/model.safetensors"), len(losses)


@pytest.mark.parametrize(
    ("loss", "where"),
    [
        pytest.param("mnrl", "embedding", marks=pytest.mark.slow),
        pytest.param("mnrl", "forward", marks=pytest.mark.slow),
        ("mnrl", "backward"),
        ("matryoshka", "embedding"),
        pytest.param("two sets", "forward", marks=pytest.mark.slow),  # too slow for CI
    ],
)
def test_all_processes_repeat_the_step_in_smaller_chunks(loss, where, line, alone, tmp_path):
    make, work = line
    expected, expected_weights, count = alone[loss]
    said, name = tmp_path / "said", f"{where}-{loss}"
    short = make(name, "hardware.chunk=4", *LOSSES[loss])
    assert in_processes(run_short, short, where, 1, tmp_path, said=said) == [0, 0]
    told = [text.split("going on with ")[1].split()[0]
            for text in said.read_text().splitlines() if "memory ran out" in text]  # fmt: skip
    assert told == ["2", "1"]  # of 4 rows a process, told once
    for rank in (0, 1):
        assert passes(tmp_path, rank, "forward")[0] == 4
        assert passes(tmp_path, rank, "forward")[-8:] == [1] * 8
    losses, weights, rows = trained(work / name)
    assert rows == len(losses) == count  # no step is done again from a checkpoint
    assert losses == pytest.approx(expected, abs=1e-5)
    for key, tensor in expected_weights.items():
        if not key.endswith("key.bias"):  # no gradient but rounding, which Adam scales up
            np.testing.assert_allclose(weights[key], tensor, atol=1e-5)


def test_what_is_exchanged_cannot_be_repeated_and_nobody_waits(line, tmp_path):
    make, _ = line
    said = tmp_path / "said"
    codes = in_processes(run_short_at_the_exchange, make("exchange", "hardware.chunk=4"), said=said)
    assert codes == [1, 1]
    assert "one of 2 processes, with 4 texts" in said.read_text()
    assert "start again with hardware.chunk=2" in said.read_text()


def test_where_one_text_is_too_much_all_end(line, tmp_path):
    make, _ = line
    said = tmp_path / "said"
    codes = in_processes(run_short, make("none", "hardware.chunk=4"), "forward", 0, tmp_path,
                         said=said)  # fmt: skip
    assert codes == [1, 1]
    assert "memory runs out with one text at a time; lower train.max_length" in said.read_text()
