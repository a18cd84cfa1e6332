import http.server
import importlib.metadata
import importlib.util
import json
import re
import shutil
import threading
import tomllib

import onnxruntime
import pytest

from finetune import cli, cpu
from finetune.commands import doctor
from finetune.config.compose import ROOT, compose
from finetune.machine import hardware
from finetune.machine.gpu import Finding
from finetune.machine.hardware import Gpu

GIB = 1024**3
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def findings(*overrides):
    return list(doctor.findings(compose(["recipes=full", *overrides])))


def finding(subject, *overrides):
    (found,) = [each for each in findings(*overrides) if each.subject == subject]
    return found


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be another machine."""

    def pretend(gpu=None, capability=(0, 0), flags=(), flash=False, memory=16 * GIB):
        monkeypatch.setattr(hardware, "has_nvidia", lambda: gpu is not None)
        monkeypatch.setattr(cpu, "flags", lambda: set(flags))
        found = (Gpu(gpu, capability, 16 * GIB, 15 * GIB),) if gpu else ()
        monkeypatch.setattr(hardware, "gpus", lambda: found)
        monkeypatch.setattr(hardware, "has_flash_attention", lambda: flash)
        monkeypatch.setattr(hardware, "available_memory", lambda: memory)

    return pretend


def test_looks_at_everything():
    subjects = {found.subject for found in findings()}
    assert subjects - EXTRAS.keys() == {"python", "cpu", "gpu", "onnx", "hardware", "flash-attn",
                                        "memory", "disk", "mlflow"}  # fmt: skip


def test_every_extra_is_looked_at_with_all_that_it_asks_for():
    wanted = {extra: {canonical(re.match(r"[\w.-]+", each)[0]) for each in asked}
              for extra, asked in EXTRAS.items() if extra != "dev"}  # fmt: skip
    found = doctor.extras()
    assert {extra: set(map(canonical, packages)) for extra, packages in found.items()} == wanted
    subjects = [each.subject for each in findings()]
    assert subjects[1:5] == ["demo", "evaluate", "track", "train"]
    assert set(wanted) <= set(subjects) and set(doctor._OPTIONAL) < set(wanted)


def canonical(package):
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.fixture
def without(monkeypatch):
    """Pretend that a package is not installed."""
    real = importlib.metadata.version

    def pretend(package):
        def version(name):
            if name == package:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.mark.parametrize(
    ("extra", "package"), [("track", "mlflow"), ("train", "peft"), ("train", "accelerate")]
)
def test_a_missing_extra_is_answered_with_the_command(without, extra, package):
    without(package)
    found = {each.subject: each for each in findings()}
    assert found[extra] == Finding(extra, f"missing: {package}", f"pip install 'finetune[{extra}]'")
    assert not found["evaluate"].fix


def test_an_extra_that_few_need_is_told_and_is_no_fault(without):
    without("optuna")
    found = finding("tune")
    assert not found.fix and "needed by finetune tune alone: pip install 'finetune[tune]'" in str(
        found
    )


def test_a_gpu_without_torch(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(hardware, "has_nvidia", lambda: True)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
    )
    found = finding("gpu")
    assert found.fix == "pip install 'finetune[train]'"


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    import torch

    monkeypatch.setattr(hardware, "has_nvidia", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = finding("gpu")
    version = torch.__version__.partition("+")[0]
    assert "no CUDA" in found.found and found.fix.endswith(f"pypi.org/simple torch=={version}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = finding("gpu")
    assert "built for CUDA 13.0" in found.found and "nvidia-driver" in found.fix


@pytest.mark.parametrize(("gib", "short"), [(1, True), (100, False)])
def test_disk_space(monkeypatch, gib, short):
    usage = shutil._ntuple_diskusage(1, 1, gib * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = finding("disk")
    assert bool(found.fix) == short and f"{gib} GiB" in found.found


@pytest.mark.parametrize(
    ("memory", "short", "phrase"),
    [(GIB, True, "1.0 GiB available; m3e-base trains on about 0 pairs"), (16 * GIB, False, "16.0"),
     (None, False, "unknown")],
)  # fmt: skip
def test_memory_and_the_batch_that_it_holds(machine, memory, short, phrase):
    machine(memory=memory)
    found = finding("memory")
    assert bool(found.fix) == short and phrase in found.found


def batch(found):
    return int(found.found.split("about ")[1].split()[0])


def test_more_memory_or_fewer_bits_hold_a_larger_batch(machine):
    machine(memory=16 * GIB)
    usual = batch(finding("memory"))
    machine(memory=16 * GIB, flags=["avx512_bf16"])
    assert batch(finding("memory")) > usual > 20
    machine(memory=8 * GIB)
    assert batch(finding("memory")) < usual / 2


def test_on_a_gpu_its_own_memory_counts(machine, monkeypatch):
    monkeypatch.setattr(doctor.gpu, "findings", lambda: iter(()))
    machine("Tesla V100", (7, 0))
    host, gpu = [each for each in findings() if each.subject == "memory"]
    assert "m3e-base" not in host.found
    assert gpu.found.startswith("15.0 of 16.0 GiB free on Tesla V100") and batch(gpu) > 50


@pytest.mark.parametrize(
    ("gpu", "capability", "override", "phrase", "fix"),
    [
        (None, (0, 0), "hardware=auto", "cpu fits: fp32, lean attention", ""),
        ("A10", (8, 6), "hardware=auto", "a10 fits: bf16", ""),
        ("V100", (7, 0), "hardware=auto", "v100 fits: fp16", ""),
        ("V100", (7, 0), "hardware=v100", "v100 fits: fp16", ""),
        ("H100", (9, 0), "hardware=v100", "v100: fp16", "like hardware=h100"),
        ("V100", (7, 0), "hardware=a100", "this GPU has no bf16", "set hardware=auto and"),
        (None, (0, 0), "hardware=a100", "no NVIDIA GPU", "set hardware=cpu"),
    ],
)
def test_the_profile_that_fits(machine, monkeypatch, gpu, capability, override, phrase, fix):
    monkeypatch.setattr(doctor.gpu, "findings", lambda: iter(()))
    machine(gpu, capability)
    found = finding("hardware", override)
    assert phrase in found.found and fix in found.fix and bool(fix) == bool(found.fix)
    assert "doctor" not in found.fix


@pytest.mark.parametrize(
    ("gpu", "capability", "flash", "phrase"),
    [
        (None, (0, 0), False, "not installed; of no use on a CPU"),
        ("V100", (7, 0), True, "installed; needs sm_80"),
        ("A10", (8, 6), False, "pip install flash-attn"),
        ("A10", (8, 6), True, "hardware.attention=flash_attention_2 can be set"),
    ],
)
def test_flash_attention(machine, monkeypatch, gpu, capability, flash, phrase):
    monkeypatch.setattr(doctor.gpu, "findings", lambda: iter(()))
    machine(gpu, capability, flash=flash)
    found = finding("flash-attn")
    assert phrase in found.found and not found.fix


@pytest.mark.parametrize(
    ("gpu", "providers", "told"),
    [
        (None, ["CPUExecutionProvider"], False),
        ("A10", ["CPUExecutionProvider"], True),
        ("A10", ["CUDAExecutionProvider", "CPUExecutionProvider"], False),
    ],
)
def test_where_exported_models_can_run(machine, monkeypatch, gpu, providers, told):
    monkeypatch.setattr(doctor.gpu, "findings", lambda: iter(()))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    machine(gpu, (8, 6))
    found = finding("onnx")
    assert ", ".join(providers) in found.found and not found.fix
    assert ("pip install onnxruntime-gpu" in found.found) == told


@pytest.fixture
def server():
    """A server that answers /health, and its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_tracking_server_that_answers(server):
    assert finding("mlflow", f"tracking.uri={server}") == Finding("mlflow", f"{server} answers")
    assert not finding("mlflow", f"tracking.uri={server}/").fix
    assert "404" in finding("mlflow", f"tracking.uri={server}/other").found


def test_a_tracking_server_that_does_not(server):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}"
    found = finding("mlflow", f"tracking.uri={address}")
    assert "does not answer" in found.found and "tracking.uri" in found.fix
    assert "does not answer" in finding("mlflow", "tracking.uri=http://a:b").found


def test_without_a_server_there_is_nothing_to_ask():
    assert finding("mlflow").found.endswith("no server to reach")
    assert "switched off" in finding("mlflow", "tracking=none").found


def test_the_disk_is_that_of_the_cache(tmp_path):
    assert str(tmp_path) in finding("disk", f"paths.cache={tmp_path}/not/yet").found


def test_the_command_line(capsys, tmp_path):
    assert cli.main(["doctor", "tracking=none", f"paths.cache={tmp_path}"]) == 0
    assert "ok  mlflow     switched off" in capsys.readouterr().out
    assert cli.main(["doctor", "tracking=none", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"subject": "mlflow", "found": "switched off (tracking=none)", "fix": ""} in rows
    assert cli.main(["doctor", "tracking.url=x"]) == 2
    assert "did you mean 'tracking.uri'" in capsys.readouterr().err


def test_a_finding_on_paper():
    assert str(Finding("cpu", "2 usable")) == "ok  cpu        2 usable"
    assert str(Finding("gpu", "none", "buy one")).splitlines() == [
        "!!  gpu        none", "    -> buy one"
    ]  # fmt: skip
