import os
from pathlib import Path

import pytest

from finetune import hardware
from finetune.config import Hardware, Precision
from finetune.errors import UserError


def asked(device="auto", precision=Precision.auto, threads=0, name="auto", processes=0):
    return Hardware(name, device, precision, threads, processes, chunk=None)


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be another machine."""

    def pretend(gpu=None, flags=()):
        monkeypatch.setattr(hardware, "has_nvidia", lambda: gpu is not None)
        monkeypatch.setattr(hardware, "cpu_flags", lambda: set(flags))
        best = Precision.bf16 if gpu == "a100" else Precision.fp16
        monkeypatch.setattr(hardware, "_cuda_precision", lambda: best)

    return pretend


@pytest.mark.parametrize(
    ("gpu", "flags", "device", "precision"),
    [
        (None, [], "cpu", Precision.fp32),
        (None, ["avx2", "avx512_vnni"], "cpu", Precision.fp32),
        (None, ["avx512_bf16"], "cpu", Precision.bf16),
        (None, ["amx_bf16"], "cpu", Precision.bf16),
        ("a100", [], "cuda", Precision.bf16),
        ("v100", ["avx512_bf16"], "cuda", Precision.fp16),
    ],
)
def test_auto_is_the_best_the_machine_can(machine, gpu, flags, device, precision):
    machine(gpu, flags)
    found = hardware.resolve(asked())
    assert (found.device, found.precision) == (device, precision)
    assert found.threads == hardware.usable_cpus() == len(os.sched_getaffinity(0))


def test_what_is_asked_for_is_kept(machine):
    machine("a100", ["avx512_bf16"])
    found = hardware.resolve(asked("cpu", Precision.fp32, 3, "cpu"))
    assert found == Hardware("cpu", "cpu", Precision.fp32, 3, processes=1, chunk=None)
    assert hardware.resolve(asked("cuda", Precision.fp16)).precision is Precision.fp16


def test_processes_are_those_that_were_started(machine, monkeypatch):
    machine()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (
        hardware.resolve(asked()).processes == hardware.resolve(asked(processes=4)).processes == 4
    )
    with pytest.raises(UserError, match=r"hardware.processes=2: 4 started.*nproc_per_node 2"):
        hardware.resolve(asked(processes=2))


def test_resolving_twice_changes_nothing(machine):
    machine(None, ["avx512_bf16"])
    once = hardware.resolve(asked())
    assert hardware.resolve(once) == once


@pytest.mark.parametrize(
    ("gpu", "request_", "phrase"),
    [
        (None, asked("cuda", name="a100"), "hardware=a100: no NVIDIA GPU"),
        ("v100", asked("cuda", Precision.bf16, name="a100"), "hardware=v100"),
        (None, asked("cpu", Precision.fp16), "hardware.precision=fp16"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_with_a_way_out(machine, gpu, request_, phrase):
    machine(gpu)
    with pytest.raises(UserError, match="hardware=") as caught:
        hardware.resolve(request_)
    assert phrase in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t: x\n",
         {"fpu", "avx2", "avx512_bf16"}),
        ("processor : 0\nFeatures : fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("processor : 0\n", set()),
    ],
)  # fmt: skip
def test_cpu_flags_are_read_from_the_first_cpu(monkeypatch, tmp_path, text, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(text, "utf-8")
    monkeypatch.setattr(hardware, "Path", lambda path: info if "cpuinfo" in path else Path(path))
    assert hardware.cpu_flags() == expected


def test_no_cpuinfo_no_flags(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / "none")
    assert hardware.cpu_flags() == set()
