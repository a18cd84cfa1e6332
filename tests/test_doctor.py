import importlib.util
import shutil
from pathlib import Path

import pytest

from finetune import doctor, hardware
from finetune.doctor import Finding, findings, gpu_finding

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
    ],
)
def test_a_gpu_that_the_installed_torch_can_use(name, capability, built_for, phrase):
    found = gpu_finding(name, capability, built_for)
    assert not found.fix and phrase in found.found and str(found).startswith("ok")


@pytest.mark.parametrize(
    ("name", "capability", "built_for", "fix"),
    [
        ("V100", (7, 0), TORCH_214, "constraints-v100.txt"),
        ("B200", (10, 0), TORCH_271, "sm_100"),
        ("A10", (8, 6), ["sm_90"], "sm_86"),
        ("P100", (6, 0), TORCH_214, "sm_60"),
    ],
)
def test_a_gpu_that_it_cannot(name, capability, built_for, fix):
    found = gpu_finding(name, capability, built_for)
    assert fix in found.fix and built_for[0] in found.found and str(found).startswith("!!")


def test_looks_at_everything():
    subjects = [found.subject for found in findings()]
    assert {"python", "train", "evaluate", "track", "demo", "cpu", "gpu", "memory", "disk"} == set(
        subjects
    )


def test_a_missing_extra_is_answered_with_the_command(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mlflow" else real(name)
    )
    found = {each.subject: each for each in findings()}
    assert found["track"].fix == "pip install 'finetune[track]'"
    assert "mlflow" in found["track"].found and not found["train"].fix


def test_a_gpu_without_torch(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(hardware, "has_nvidia", lambda: True)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
    )
    (found,) = [each for each in findings() if each.subject == "gpu"]
    assert found.fix == "pip install 'finetune[train]'"


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    import torch

    monkeypatch.setattr(hardware, "has_nvidia", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = [each for each in findings() if each.subject == "gpu"]
    assert "CUDA build" in found.fix


@pytest.mark.parametrize(("gib", "short"), [(1, True), (100, False)])
def test_disk_space(monkeypatch, gib, short):
    usage = shutil._ntuple_diskusage(1, 1, gib * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (found,) = [each for each in findings() if each.subject == "disk"]
    assert bool(found.fix) == short and f"{gib} GiB" in found.found


@pytest.mark.parametrize(("kib", "short"), [(1024**2, True), (64 * 1024**2, False)])
def test_memory(monkeypatch, tmp_path, kib, short):
    info = tmp_path / "meminfo"
    info.write_text(f"MemTotal: 99 kB\nMemAvailable: {kib} kB\n")
    monkeypatch.setattr(doctor, "Path", lambda path: info if "meminfo" in path else Path(path))
    found = doctor._memory()
    assert bool(found.fix) == short and f"{kib / 1024**2:.1f} GiB" in found.found


def test_a_finding_on_paper():
    assert str(Finding("cpu", "2 usable")) == "ok  cpu        2 usable"
    assert str(Finding("gpu", "none", "buy one")).splitlines() == [
        "!!  gpu        none", "    -> buy one"
    ]  # fmt: skip
