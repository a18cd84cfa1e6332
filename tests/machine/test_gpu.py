from pathlib import Path

import pytest

from finetune import pipeline
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.machine import gpu
from finetune.machine.gpu import Finding
from finetune.stage import MANIFEST, Planned, Step

TORCH_214 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
TORCH_271 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("name", "capability", "built_for", "phrase"),
    [
        ("V100", (7, 0), TORCH_271, "fp16 with a loss scaler"),
        ("T4", (7, 5), TORCH_214, "fp16 with a loss scaler"),
        ("A100", (8, 0), TORCH_214, "trains in bf16"),
        ("A10", (8, 6), TORCH_214, "trains in bf16"),
        ("RTX 4090", (8, 9), TORCH_214, "trains in bf16"),  # runs the code for sm_86
        ("H100", (9, 0), TORCH_271, "trains in bf16"),
        ("B200", (10, 0), TORCH_214, "trains in bf16"),
        ("B200", (10, 0), ["sm_90", "compute_90"], "trains in bf16"),
    ],
)
def test_a_gpu_that_the_installed_torch_can_use(name, capability, built_for, phrase):
    found = gpu.finding(name, capability, built_for)
    assert not found.fix and phrase in found.found and str(found).startswith("ok")


@pytest.mark.parametrize(
    ("name", "capability", "built_for", "fix"),
    [
        ("V100", (7, 0), TORCH_214, "constraints-v100.txt"),
        ("B200", (10, 0), TORCH_271, "pip install --upgrade torch"),
        ("A10", (8, 6), ["sm_90"], "pip install --upgrade torch"),
        ("P100", (6, 0), TORCH_214, "constraints-v100.txt"),
    ],
)
def test_a_gpu_that_it_cannot(name, capability, built_for, fix):
    found = gpu.finding(name, capability, built_for)
    assert fix in found.fix and built_for[0] in found.found and str(found).startswith("!!")
    assert f"sm_{capability[0]}{capability[1]}" in found.found


# --- before the first step ---

GOOD = Finding("gpu", "V100 (sm_70): trains in fp16")
BAD = gpu.finding("V100", (7, 0), TORCH_214)


def planned(device, folder=Path("nowhere")):
    return [Planned(Step("data", print, 1, {}), "0", Path("nowhere")),
            Planned(Step("corpus", print, 1, {"device": device}), "1", folder)]  # fmt: skip


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that torch finds these, and that so many processes were started."""

    def pretend(*found, started=1, visible=None):
        monkeypatch.setattr(gpu, "findings", lambda: iter(found))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(started))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return pretend


def test_a_gpu_that_torch_cannot_use_is_told_before_the_first_step(gpus):
    gpus(BAD, GOOD)
    told = r"hardware=v100: the GPU cannot be used: V100 is sm_70.*constraints-v100.txt; or set"
    with pytest.raises(UserError, match=told):
        gpu.check(planned("cuda"), "v100")
    gpus(GOOD, BAD)  # the second is not used
    gpu.check(planned("cuda"), "v100")


def test_torch_is_asked_only_for_what_is_to_be_done_on_a_gpu(gpus, tmp_path):
    gpus(BAD)
    (tmp_path / MANIFEST).touch()
    gpu.check(planned("cuda", tmp_path), "v100")
    gpu.check(planned("cpu"), "cpu")


def test_two_processes_do_not_share_a_gpu(gpus):
    gpus(GOOD, started=2)
    with pytest.raises(UserError, match="2 processes .* 1 usable GPUs.*--nproc_per_node 1"):
        gpu.check(planned("cuda"), "v100")
    gpus(GOOD, GOOD, started=2)
    gpu.check(planned("cuda"), "v100")
    gpus(GOOD, started=2, visible="1")  # the other may see number 0
    gpu.check(planned("cuda"), "v100")


def test_a_run_asks_it_first(gpus, tmp_path, monkeypatch):
    gpus(BAD)
    monkeypatch.setattr(pipeline, "resolve", lambda config: config)
    monkeypatch.setattr(pipeline, "steps_of", lambda config: [])
    monkeypatch.setattr(pipeline, "plan", lambda steps, cache: planned("cuda"))
    monkeypatch.setattr(pipeline.budget, "show", lambda *_: None)
    config = compose(["recipes=full", "hardware=v100", f"run_dir={tmp_path}/run"])
    with pytest.raises(UserError, match=r"constraints-v100.txt"):
        pipeline.run(config)
