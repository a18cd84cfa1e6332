import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import cpu
from finetune.config import Hardware
from finetune.config.choices import Precision
from finetune.config.compose import choices, compose
from finetune.errors import UserError
from finetune.machine import hardware
from finetune.machine.hardware import Gpu

GIB = 1024**3
CAPABILITY = {"v100": (7, 0), "t4": (7, 5), "a100": (8, 0), "a10": (8, 6), "rtx4090": (8, 9),
              "h100": (9, 0), "b200": (10, 0)}  # fmt: skip


def asked(device="auto", precision=Precision.auto, threads=0, name="auto", processes=0, **more):
    rest = {"chunk": None, "attention": None, "compile": None, "encode_tokens": None,
            "workers": None, **more}  # fmt: skip
    return Hardware(name, device, precision, threads, processes, **rest)


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be another machine."""

    def pretend(gpu=None, flags=(), flash=False):
        monkeypatch.setattr(hardware, "has_nvidia", lambda: gpu is not None)
        monkeypatch.setattr(cpu, "flags", lambda: set(flags))
        found = (Gpu(gpu, CAPABILITY[gpu], 16 * GIB, 15 * GIB),) if gpu else ()
        monkeypatch.setattr(hardware, "gpus", lambda: found)
        monkeypatch.setattr(hardware, "has_flash_attention", lambda: flash)

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
    assert found.threads == cpu.count()


def test_what_is_asked_for_is_kept(machine):
    machine("a100", ["avx512_bf16"])
    found = hardware.resolve(asked("cpu", Precision.fp32, 3, "cpu"))
    assert (found.device, found.precision, found.threads) == ("cpu", Precision.fp32, 3)
    assert found.processes == 1
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
        (None, asked("cuda"), "hardware.device=cuda: no NVIDIA GPU"),
        ("v100", asked("cuda", Precision.bf16, name="a100"), "set it to fp16"),
        (None, asked("cpu", Precision.fp16), "needs a GPU; leave hardware.precision out"),
        (None, asked(attention="flash_attention_2"), "from sm_80 on"),
        ("v100", asked(attention="flash_attention_2"), "from sm_80 on"),
        ("a10", asked(precision=Precision.fp32, attention="flash_attention_2"), "16 bits only"),
        ("a10", asked(attention="flash_attention_2"), "pip install flash-attn"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_with_a_way_out(machine, gpu, request_, phrase):
    machine(gpu)
    with pytest.raises(UserError, match="hardware") as caught:
        hardware.resolve(request_)
    assert phrase in str(caught.value)


def test_a_gpu_that_nothing_can_use_is_told(machine, monkeypatch):
    machine("a10")
    monkeypatch.setattr(hardware, "gpus", tuple)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        UserError, match="neither nvidia-smi nor torch can use it; set hardware=cpu"
    ):
        hardware.resolve(asked())


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
    monkeypatch.setattr(cpu, "_INFO", info)
    assert cpu.flags() == expected


def test_no_cpuinfo_no_flags(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "_INFO", tmp_path / "none")
    assert cpu.flags() == set()


# --- profiles ---


@pytest.mark.parametrize(
    ("gpu", "profile"),
    [("v100", "v100"), ("t4", "v100"), ("a100", "a100"), ("a10", "a10"), ("rtx4090", "a10"),
     ("h100", "h100"), ("b200", "h100")],
)  # fmt: skip
def test_auto_takes_the_profile_that_fits(machine, gpu, profile):
    machine(gpu)
    assert hardware.fitting("cuda") == profile and hardware.fitting("cpu") == "cpu"
    found, named = hardware.resolve(asked()), compose(["recipes=full", f"hardware={profile}"])
    same = {"name": "auto", "threads": found.threads, "processes": 1}
    assert dataclasses.replace(named.hardware, **same) == found


def test_what_the_profile_says_can_be_overridden(machine):
    machine("a100")
    found = hardware.resolve(asked(workers=0, compile=True, encode_tokens=7))
    assert (found.workers, found.compile, found.encode_tokens) == (0, True, 7)
    assert found.attention == hardware.settings_of("a100")["attention"]


def test_flash_attention_where_it_can_be(machine):
    machine("a10", flash=True)
    assert hardware.resolve(asked(attention="flash_attention_2")).attention == "flash_attention_2"


@pytest.mark.parametrize("profile", choices("hardware"))
def test_every_line_of_a_profile_says_why(profile):
    text = (hardware.ROOT / f"configs/hardware/{profile}.yaml").read_text("utf-8")
    above = ""
    for line in text.splitlines():
        if not line.startswith(("#", "name:")):
            plain = line.startswith(("threads: 0", "processes: 0", "device:"))
            assert "#" in line or "#" in above or plain, line
        above = line if line.startswith("#") else above


def test_a_gpu_that_nothing_can_use(machine, monkeypatch):
    machine("a100")
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="set hardware=cpu"):
        hardware.resolve(asked())


# --- what the machine says of itself ---


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put an nvidia-smi that prints a text first on the path."""

    def plant(text, code=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        hardware.gpus.cache_clear()

    yield plant
    hardware.gpus.cache_clear()


TWO = "NVIDIA A10, 8.6, 23028, 22000, GPU-1a\nTesla V100-SXM2-16GB, 7.0, 16384, 100, GPU-2b"


def test_gpus_as_the_driver_lists_them(nvidia_smi):
    nvidia_smi(TWO)
    mib = 1024**2
    assert hardware.gpus() == (
        Gpu("NVIDIA A10", (8, 6), 23028 * mib, 22000 * mib),
        Gpu("Tesla V100-SXM2-16GB", (7, 0), 16384 * mib, 100 * mib),
    )


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("1", [(7, 0)]), ("1, 0", [(7, 0), (8, 6)]), ("GPU-2", [(7, 0)]), ("1,-1,0", [(7, 0)]),
     ("7", []), ("", []), ("MIG-5c", [(8, 6), (7, 0)])],
)  # fmt: skip
def test_only_gpus_that_cuda_may_see_count(nvidia_smi, monkeypatch, visible, expected):
    nvidia_smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [each.capability for each in hardware.gpus()] == expected


@pytest.mark.parametrize(
    ("nodes", "visible", "listed", "expected"),
    [(["nvidia0"], None, "", True), (["nvidia3"], None, "", True), (["nvidiactl"], None, "", False),
     (["dxg"], None, TWO, True), (["dxg"], None, "", False), ([], None, TWO, False),
     (["nvidia0"], "", "", False), (["nvidia0"], "-1", "", False), (["nvidia0"], "2,3", "", True),
     (["nvidia0"], "GPU-2b", "", True), (["nvidia0"], "NoDevFiles", "", False)],
)  # fmt: skip
def test_a_gpu_is_there_and_not_hidden(
    nvidia_smi, monkeypatch, tmp_path, nodes, visible, listed, expected
):
    nvidia_smi(listed)
    for node in nodes:
        (tmp_path / node).touch()
    monkeypatch.setattr(hardware, "_NODES", tmp_path)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.has_nvidia() == expected


def test_a_hidden_gpu_is_told(machine, monkeypatch):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(UserError, match=r"no NVIDIA GPU .*\(CUDA_VISIBLE_DEVICES=-1\); set"):
        hardware.resolve(asked("cuda"))


@pytest.mark.parametrize(
    ("text", "code"),
    [("NVIDIA-SMI has failed because it couldn't communicate with the driver", 9),
     ("Failed to initialize NVML: a, b, c", 0), ("GH200, 9.0, [N/A], [N/A], GPU-1", 0), ("", 0)],
)  # fmt: skip
def test_a_driver_that_tells_nothing(nvidia_smi, text, code):
    nvidia_smi(text, code)
    assert hardware.gpus() == ()


def test_no_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    hardware.gpus.cache_clear()
    assert hardware.gpus() == ()
    hardware.gpus.cache_clear()


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 8 * GIB), ("max\n", 8 * GIB), (f"{6 * GIB}\n", 5 * GIB)]
)
def test_memory_within_the_containers_limit(monkeypatch, tmp_path, limit, expected):
    info = tmp_path / "meminfo"
    info.write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * 1024**2} kB\n")
    monkeypatch.setattr(hardware, "Path", lambda path: info if "meminfo" in path else Path(path))
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.stat").write_text(f"anon {GIB}\nfile 5\n")
    assert hardware.available_memory() == expected


@pytest.mark.parametrize(("limit", "expected"), [(2**63 - 4096, 8 * GIB), (6 * GIB, 5 * GIB)])
def test_memory_within_the_limit_of_an_older_container(monkeypatch, tmp_path, limit, expected):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{limit}\n")
    (tmp_path / "memory/memory.stat").write_text(f"rss 1\ntotal_rss {GIB}\n")
    info = tmp_path / "meminfo"
    info.write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * 1024**2} kB\n")
    monkeypatch.setattr(hardware, "Path", lambda path: info)
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert hardware.available_memory() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [({}, 64), ({"cpu.max": "max 100000\n"}, 64), ({"cpu.max": "150000 100000\n"}, 2),
     ({"cpu.max": "9000000 100000\n"}, 64),
     ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
     ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2)],
)  # fmt: skip
def test_cpus_within_the_containers_limit(monkeypatch, tmp_path, files, expected):
    monkeypatch.setattr(cpu, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu.count() == expected


def test_memory_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / "none")
    assert hardware.available_memory() is None


def test_the_label_names_what_a_time_depends_on(machine, monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor: 0\nmodel name\t: AMD EPYC 9\n", "utf-8")
    monkeypatch.setattr(cpu, "_INFO", info)
    machine("a10")
    on_cpu = hardware.resolve(asked("cpu", Precision.fp32, 3))
    assert hardware.label(on_cpu) == "AMD EPYC 9 3 threads fp32"
    assert hardware.label(hardware.resolve(asked(threads=2))) == "a10 2 threads bf16"


# --- memory that is given back, or never taken ---


def grown(body, *, given=""):
    """MiB that a process of its own grows by while it runs ``body``, which follows its imports."""
    code = f"""
import os, torch
from finetune.machine import hardware
{given}
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
start = rss()
{body}
print(rss() - start)
"""
    # Runs of other tests, in this process, have set bounds.
    unbound = {key: v for key, v in os.environ.items() if not key.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unbound
    )
    return float(done.stdout)


def test_what_was_freed_is_given_back():
    # Every second block goes, the last stays: glibc would keep them all.
    body = "kept = [bytearray(100_000) for _ in range(2_000)]; del kept[::2]"
    assert grown(body) > 150
    assert grown(f"{body}; hardware.give_memory_back()") < 120


@pytest.mark.skipif(
    not cpu.flags() & {"avx512_bf16", "amx_bf16"}, reason="compiles no bf16 kernels"
)
def test_kernels_of_shapes_that_do_not_come_again_are_forgotten():
    step = """
layer = torch.nn.Linear(128, 512)
def step(rows):
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.zeros(rows, 128, requires_grad=True)).sum().backward()
step(16)
"""
    body = "for rows in range(30, 230): step(rows)"
    bound = grown(body, given=f"hardware.bound_kernel_caches(){step}")
    assert bound < grown(body, given=step) / 2


def test_a_bound_that_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    hardware.bound_kernel_caches()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
