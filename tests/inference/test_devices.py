import logging
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from finetune.errors import UserError
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.batches import GPU_TOKEN_BUDGET, TOKEN_BUDGET
from finetune.inference.machine import settings
from finetune.inference.onnx import on_gpu

GPU = "CUDAExecutionProvider"


@pytest.fixture
def with_gpu(monkeypatch):
    """ONNX Runtime as on a machine with a GPU; CUDA itself cannot start here."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [GPU, "CPUExecutionProvider"]
    )


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
def test_auto_falls_back_and_says_so(with_gpu, bundle, caplog):
    info = BundleInfo.read(bundle)
    files = {**info.precisions, "fp16": info.precisions["fp32"]}
    replace(info, precisions=files).write(bundle)
    if GPU in onnxruntime.InferenceSession(bundle / "fp32/model.onnx").get_providers():
        pytest.skip("here it starts")
    with caplog.at_level(logging.WARNING):
        assert OnnxEncoder.load(bundle, "fp16").encode(["甲"]).shape == (1, 2)
    assert "could not start on the GPU" in caplog.text


def test_batches_are_larger_on_a_gpu(bundle):
    assert settings(bundle, "fp16", "", 1, None, gpu=True) == (1, GPU_TOKEN_BUDGET)
    assert settings(bundle, "fp16", "", 1, None) == (1, TOKEN_BUDGET)


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_vectors(tiny_bundle):
    texts = ["房东不退押金", "老板", "法律规定" * 9]
    found = OnnxEncoder.load(tiny_bundle, "fp32", device="cuda").encode(texts)
    expected = OnnxEncoder.load(tiny_bundle, "fp32", device="cpu").encode(texts)
    np.testing.assert_allclose(found, expected, atol=1e-3)
