import json
import logging
import platform
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import tiny_runs

from finetune import cpu
from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder, encode_file, machine, sessions
from finetune.inference.batches import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from finetune.inference.machine import settings
from finetune.inference.sessions import on_gpu
from finetune.steps import core, encoders

GPU = "CUDAExecutionProvider"


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp16", "auto", True), ("fp32", "auto", False), ("int8-dynamic", "auto", False),
        ("fp16", "cpu", False), ("fp16", "cuda", True), ("fp32", "cuda", True),
    ],
)  # fmt: skip
def test_what_runs_on_a_gpu(with_gpu, precision, device, expected):
    assert on_gpu(precision, device) == expected


def test_without_one_fp16_runs_on_the_cpu_and_says_so(without_gpu, caplog):
    with caplog.at_level(logging.WARNING):
        assert not on_gpu("fp16", "auto")
    assert "made for GPUs" in caplog.text


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("fp32", "cuda", "has CPUExecutionProvider only.*pip install onnxruntime-gpu"),
        ("int8-dynamic", "cuda", "int8-dynamic is made for CPUs; take precision fp16"),
        ("openvino-int8", "cuda", "made for CPUs"),
        ("fp32", "tpu", "device=tpu: expected auto, cpu, cuda"),
    ],
)
def test_what_cannot_be_is_told(without_gpu, precision, device, message):
    with pytest.raises(UserError, match=message):
        on_gpu(precision, device)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_does_not_start_is_no_silent_cpu(with_gpu, bundle):
    if GPU in onnxruntime.InferenceSession(bundle / "fp32/model.onnx").get_providers():
        pytest.skip("here it starts")
    with pytest.raises(UserError, match="could not start on the GPU.*device=cpu"):
        OnnxEncoder.load(bundle, "fp32", device="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_auto_falls_back_and_says_so(with_gpu, bundle, tmp_path, caplog):
    info = BundleInfo.read(bundle)
    files = {**info.precisions, "fp16": info.precisions["fp32"]}
    replace(info, precisions=files).write(bundle)
    if GPU in onnxruntime.InferenceSession(bundle / "fp32/model.onnx").get_providers():
        pytest.skip("here it starts")
    machine.write(bundle, "fp16", machine.Tuned(files["fp16"].sha256, 1, 4, 20, 10))
    with caplog.at_level(logging.WARNING):
        encoder = OnnxEncoder.load(bundle, "fp16")
    assert "could not start on the GPU" in caplog.text
    # The batches are those of the CPU, as tuned.
    assert not encoder.gpu and len(list(encoder.batches(["甲乙"] * 4))) == 2
    (tmp_path / "texts").write_text("甲乙\n乙甲\n", "utf-8")
    encode_file(tmp_path / "texts", tmp_path / "out.npy", bundle, precision="fp16")
    record = json.loads((tmp_path / "out.npy.json").read_text("utf-8"))
    assert (record["gpu"], record["budget"]) == (False, 4)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(("device", "warned"), [("cuda", True), ("cpu", False)])
def test_a_run_scores_fp16_on_its_own_device(with_gpu, bundle, tmp_path, caplog, device, warned):
    if GPU in onnxruntime.InferenceSession(bundle / "fp32/model.onnx").get_providers():
        pytest.skip("here it starts")
    shutil.copytree(bundle / "fp32", bundle / "fp16")
    info = BundleInfo.read(bundle)
    entry = replace(info.precisions["fp32"], file="fp16/model.onnx")
    replace(info, precisions={"fp16": entry}).write(bundle)
    shutil.move(bundle, tmp_path / "export/bundle")
    settings = {"device": device, "threads": 1}
    encoder = encoders.own("onnx-fp16", settings, {"export": tmp_path / "export"})
    assert not encoder.gpu and ("could not start on the GPU" in caplog.text) == warned


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cudas_libraries_are_loaded_for_a_gpu_alone_and_say_nothing_on_standard_output(
    with_gpu, bundle, monkeypatch, capsys
):
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write("no cudart"))
    OnnxEncoder.load(bundle, "fp32")
    assert capsys.readouterr() == ("", "")
    if GPU not in onnxruntime.InferenceSession(bundle / "fp32/model.onnx").get_providers():
        with pytest.raises(UserError, match="could not start"):
            OnnxEncoder.load(bundle, "fp32", device="cuda")
        said = capsys.readouterr()
        assert said.out == "" and "no cudart" in said.err


def test_batches_are_larger_on_a_gpu(bundle):
    assert settings(bundle, "fp16", "", 1, None, gpu=True) == (1, GPU_TOKEN_BUDGET)
    assert settings(bundle, "fp16", "", 1, None) == (1, TOKEN_BUDGET)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_gives_the_cpus_vectors(tiny_model, tmp_path, precision):
    from finetune import model as models
    from finetune.export import Origin, export_bundle

    model = models.load(tiny_model)
    texts = ["房东不退押金", "老板", "法律规定" * 9]
    settings = tiny_runs.export_settings("fp32", "fp16")
    export_bundle(model, models.TorchEncoder(model), texts, tmp_path / "bundle",
                  Origin("tiny", "tests/tiny", "unknown", "mit"), **settings)  # fmt: skip
    found = OnnxEncoder.load(tmp_path / "bundle", precision, device="cuda").encode(texts)
    expected = OnnxEncoder.load(tmp_path / "bundle", precision, device="cpu").encode(texts)
    np.testing.assert_allclose(found, expected, atol=1e-3 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize(("gpu", "named"), [(True, "the GPU"), (False, "the CPU")])
def test_an_exports_speed_is_told_of_what_ran_it(monkeypatch, tmp_path, gpu, named):
    ran = SimpleNamespace(gpu=gpu)
    monkeypatch.setattr(encoders, "own", lambda *_: ran)
    monkeypatch.setattr(encoders, "size", lambda *_: 1)
    monkeypatch.setattr("finetune.evaluation.speed.measure", lambda *_: SimpleNamespace(told={}))
    monkeypatch.setattr(core, "read_set", lambda path: SimpleNamespace(questions={}))
    monkeypatch.setattr(core, "_sample", lambda *_: [])
    monkeypatch.setattr(core, "_machine", {"cuda": "the GPU", "cpu": "the CPU"}.get)
    settings = {"device": "cuda", "threads": 1, "speed_texts": 1, "seed": 0}
    (tmp_path / "report/a").mkdir(parents=True)
    told = core.timed("onnx-fp16", settings, {"sets": tmp_path})
    assert told["machine"] == named


CPUINFO = "processor\t: 0\nmodel name\t: x\nflags\t\t: fpu {}\n\nprocessor\t: 1\nflags\t: fpu\n"


@pytest.mark.parametrize(
    ("kind", "flags", "expected"),
    [
        ("x86_64", "avx2", True), ("x86_64", "avx2 avx512f", True),
        ("x86_64", "avx2 avx_vnni", False), ("x86_64", "avx512f avx512_vnni", False),
        ("aarch64", "asimddp", False),
    ],
)  # fmt: skip
def test_which_cpus_saturate(monkeypatch, kind, flags, expected):
    lines = CPUINFO.format(flags).split("\n\n")[0].splitlines()
    monkeypatch.setattr(cpu, "lines", lambda: lines)
    monkeypatch.setattr(platform, "machine", lambda: kind)
    assert machine.saturates() == expected
    monkeypatch.setattr(cpu, "lines", list)  # a system that does not tell
    assert not machine.saturates()


def test_a_machine_is_called_by_its_cpus_name(monkeypatch):
    lines = ["processor\t: 0", "cpu family\t: 25", "model name\t: AMD EPYC", "flags\t: fpu"]
    monkeypatch.setattr(cpu, "lines", lambda: lines)
    assert cpu.name() == "AMD EPYC" and machine.name().startswith("AMD EPYC ")
    monkeypatch.setattr(cpu, "lines", list)
    assert cpu.name() == platform.machine()


def test_int8_on_a_cpu_that_saturates_says_so_once(two_precisions, monkeypatch, caplog):
    sessions._warn_of_saturation.cache_clear()
    monkeypatch.setattr(sessions, "saturates", lambda: True)
    OnnxEncoder.load(two_precisions, "fp32")
    assert not caplog.text
    for _ in range(2):
        OnnxEncoder.load(two_precisions, "int8-dynamic")
    assert caplog.text.count("has no VNNI") == 1 and "precision fp32" in caplog.text
    sessions._warn_of_saturation.cache_clear()
    monkeypatch.setattr(sessions, "saturates", lambda: False)
    caplog.clear()
    OnnxEncoder.load(two_precisions, "int8-dynamic")
    assert not caplog.text
