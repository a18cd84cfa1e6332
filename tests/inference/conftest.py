"""A bundle small enough to work out by hand, made without torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from finetune.inference import BundleFile, BundleInfo
from finetune.inference.bundle import sha256

# Token vectors: 甲 points along the first axis, 乙 along the second; 问 (the query prompt) against
# the first. Padding is far from all, so that a mask that leaks shows.
VOCABULARY = {"<pad>": 0, "<unk>": 1, "甲": 2, "乙": 3, "问": 4}
VECTORS = np.array([[50, -70], [0, 0.1], [1, 0], [0, 1], [-1, 0]], dtype=np.float32)


@pytest.fixture
def bundle(tmp_path) -> Path:
    """Mean of the token vectors, normalised; cut after 4 tokens."""
    folder = tmp_path / "bundle"
    (folder / "fp32").mkdir(parents=True)
    model = folder / "fp32" / "model.onnx"
    onnx.save(_mean_of_tokens(), model)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.enable_padding(length=9)  # a reader must not trust what the file says
    tokenizer.save(str(folder / "tokenizer.json"))
    info = BundleInfo(
        name="手算", dim=2, max_length=4, prompts={"query": "问", "passage": ""}, pooling="mean",
        normalize=True, base_model="none", base_revision="unknown", licence="MIT", pad_id=0,
        tokenizer_sha256=sha256(folder / "tokenizer.json"),
        precisions={"fp32": BundleFile.of(model, folder)},
    )  # fmt: skip
    info.write(folder)
    return folder


@pytest.fixture
def two_precisions(bundle) -> Path:
    """The same bundle with its model under a second name."""
    info = BundleInfo.read(bundle)
    info = replace(info, precisions={**info.precisions, "int8-dynamic": info.precisions["fp32"]})
    info.write(bundle)
    return bundle


@pytest.fixture
def with_gpu(monkeypatch):
    """ONNX Runtime as on a machine with a GPU; CUDA itself cannot start here."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)


def _mean_of_tokens() -> onnx.ModelProto:
    matrix = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, matrix)
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 2])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["tokens", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["sentence_embedding"], axis=-1, p=2),
    ]
    constants = [
        numpy_helper.from_array(VECTORS, "table"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "second"),
    ]
    graph = helper.make_graph(nodes, "mean", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
