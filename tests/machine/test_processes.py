"""What the processes of a run tell each other; started here without a launcher, as it would."""

import re
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from launched import in_processes
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from tiny_runs import die

from finetune import model as models
from finetune.config.choices import Precision
from finetune.errors import UserError
from finetune.machine import channel, processes
from finetune.machine.processes import everywhere
from finetune.training import strategy
from finetune.training import train as training

DOCUMENT = Path(__file__).parents[2] / "docs/multi-node.md"

# --- how a run ends ---


def work(folder, ending):
    def lead() -> int:
        (folder / f"worked-{processes.rank()}").touch()
        time.sleep(0.5)
        return ending()

    return processes.run(lead)


def done():
    return 0


def gate_failed():
    return 3


def mishap():
    raise ValueError("no")


@pytest.mark.parametrize(
    ("ending", "codes", "told"),
    [
        (done, [0, 0, 0], ""),
        (gate_failed, [3, 3, 3], ""),
        (mishap, [1, 1, 1], "ends: the first process failed"),
        (die, [-9, 1, 1], "ends: the first process is gone"),
    ],
)
def test_only_the_first_works_and_all_end_as_it_does(tmp_path, ending, codes, told):
    said = tmp_path / "said"
    assert in_processes(work, tmp_path, ending, count=3, said=said) == codes
    assert [path.name for path in tmp_path.glob("worked*")] == ["worked-0"]
    if told:
        assert said.read_text().count(told) == said.read_text().count("ends: ") == 2
    else:
        assert said.read_text() == ""


def test_one_process_needs_no_other(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.run(lambda: 3) == 3
    assert processes.once(lambda: "x") == "x"


# --- steps that all join ---


@everywhere
def note(settings, inputs, out):
    """Each process writes what it was told."""
    answer = processes.once(lambda: f"decided by {processes.rank()}")
    if settings.get("fails in") == processes.rank():
        raise ValueError("no")
    (out / f"{settings['name']}-{processes.rank()}").write_text(f"{answer} {inputs['in'].name}")


def notes(folder, *settings):
    processes.GRACE = 0.5

    def lead() -> int:
        for each in settings:
            note(each, {"in": folder}, folder)
        return 0

    return processes.run(lead)


def test_all_join_a_step_in_order_with_what_the_first_decided(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_processes(notes, tmp_path, {"name": "a"}, {"name": "b"}) == [0, 0]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{step}-{rank}": f"decided by 0 {tmp_path.name}" for step in "ab" for rank in (0, 1)
    }  # fmt: skip


def test_a_process_that_fails_alone_ends_with_its_own_error(tmp_path):
    said = tmp_path / "said"
    assert in_processes(notes, tmp_path, {"name": "a", "fails in": 1}, said=said) == [0, 1]
    assert [path.name for path in tmp_path.glob("a-*")] == ["a-0"]
    assert "ValueError: no" in said.read_text()


def test_a_process_that_does_not_come_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(channel, "_MEETING", 0.0)
    with pytest.raises(TimeoutError, match="1 of 2 processes came to this step in 0 s"):
        channel.Channel(torch.distributed.HashStore(), 0, 2).meet()


def test_a_step_keeps_its_name():
    assert note.__name__ == "note"  # the cache folder's


# --- one batch in two processes ---

SCALE = 20.0


def features(model, rows):
    topics, rest = "房东老板网店离婚", "不退押金"
    columns = ([f"{topics[n % 8]}{rest[: n % 4]}{kind}" for n in rows] for kind in "查告否")
    return [model.tokenizer(column, padding=True, return_tensors="pt") for column in columns]


def gradients(loss, model, rows):
    value = loss(features(model, rows), torch.empty(0))
    value.backward()
    return value.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def both(model):
    yield MultipleNegativesRankingLoss(model, SCALE, gather_across_devices=processes.count() > 1)
    yield CachedMultipleNegativesRankingLoss(
        model, SCALE, mini_batch_size=3, gather_across_devices=processes.count() > 1
    )


def share(folder, base):
    processes.connect("cpu", 2)
    assert torch.get_num_threads() == 1  # two threads, two processes
    model = models.load(base)
    for number, loss in enumerate(both(model)):
        model.zero_grad()
        loss.model = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        value, found = gradients(loss, model, range(processes.rank(), 16, 2))
        np.savez(folder / f"{number}-{processes.rank()}.npz", loss=value, **found)


def test_gathered_loss_and_gradients_are_those_of_the_whole_batch(tiny_model, tmp_path):
    assert in_processes(share, tmp_path, tiny_model) == [0, 0]
    model = models.load(tiny_model)
    for number, loss in enumerate(both(model)):
        model.zero_grad()
        value, expected = gradients(loss, model, range(16))
        parts = [np.load(tmp_path / f"{number}-{rank}.npz") for rank in (0, 1)]
        assert np.mean([part["loss"] for part in parts]) == pytest.approx(value, abs=1e-6)
        largest = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in expected.items():
            for part in parts:
                np.testing.assert_allclose(part[name], gradient, atol=1e-6 * largest, err_msg=name)


def test_only_the_first_process_writes_checkpoints(monkeypatch, tmp_path, tiny_model):
    trainer = SimpleNamespace(model=models.load(tiny_model))
    for rank, written in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        training.Trainer._save(trainer, str(tmp_path / "checkpoint"))
        assert (tmp_path / "checkpoint").exists() is written


MNRL = "sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss"
OTHER = "sentence_transformers.sentence_transformer.losses"


def test_losses_that_can_gather_do_also_inside_others(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    inner = {"_target_": MNRL, "scale": 50.0}
    assert strategy.gathering(inner) == {**inner, "gather_across_devices": True}
    outer = {"_target_": f"{OTHER}.MatryoshkaLoss", "loss": inner, "matryoshka_dims": [8]}
    assert strategy.gathering(outer)["loss"]["gather_across_devices"] is True
    scored = {"_target_": f"{OTHER}.CoSENTLoss", "scale": 20.0}
    gathered = "finetune.training.losses.GatheredCoSENT"
    assert strategy.gathering(scored) == {**scored, "_target_": gathered}
    alone = {"_target_": f"{OTHER}.AnglELoss", "scale": 20.0}
    assert strategy.gathering(alone) == alone
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert strategy.gathering(scored) == scored


@pytest.mark.parametrize(
    ("fsdp", "stage", "precision", "problem"),
    [
        (False, None, Precision.bf16, None),
        (False, 2, Precision.fp32, None),
        (True, None, Precision.fp32, "shard the weights"),
        (False, 3, Precision.fp32, "shard the weights"),
        (False, 2, Precision.bf16, "hardware.precision=bf16: DeepSpeed would keep the weights"),
    ],
)
def test_accelerate_configurations_that_would_spoil_the_model(fsdp, stage, precision, problem):
    state = SimpleNamespace(deepspeed_plugin=stage and SimpleNamespace(zero_stage=stage))
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(state=state), is_fsdp_enabled=fsdp
    )  # fmt: skip
    with pytest.raises(UserError, match=problem) if problem else nullcontext():
        strategy.check(trainer, precision)


def test_documented_accelerate_configurations_are_whole_and_known_to_it(tmp_path):
    documented = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    kinds = []
    for number, text in enumerate(documented):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        found = load_config_from_file(str(path))  # refuses keys that it does not know
        assert (found.num_machines, found.num_processes) == (2, 8)
        assert found.main_process_ip and found.main_process_port
        kinds.append(found.distributed_type)
    assert kinds == ["MULTI_GPU", "DEEPSPEED"]


# --- what a launcher says ---


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),  # accelerate launch --num_processes 1
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "1", "WORLD_SIZE": "2"}, False),
        ({"MASTER_PORT": "1", "WORLD_SIZE": "2"}, False),  # torchrun
    ],
)
def test_a_launcher_that_started_one_process_instead_of_several(monkeypatch, environment, says):
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("torchrun --nproc_per_node N" in processes.started_alone()) == says
