"""Every format of every kind of tuned model, with and without a Dense module."""

import json
import logging

import numpy as np
import onnx
import pytest
import tiny_runs
import torch
from hydra.utils import instantiate
from onnx import TensorProto
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from finetune import adapter
from finetune import model as models
from finetune.adapter import prefix
from finetune.config.check import PRECISIONS
from finetune.config.compose import compose
from finetune.export import Origin, export_bundle
from finetune.inference import BundleInfo, OnnxEncoder, shortened

from .conftest import TEXTS

pytest.importorskip("openvino")

ORIGIN = Origin("合同", "moka-ai/m3e-small", "unknown", "mit")
INT8 = ("int8-dynamic", "int8-static", "openvino-int8")


def tuned(recipe, head, tiny_model, folder):
    """A model folder as training leaves it, its adapter merged or its prefix saved."""
    base = models.load(tiny_model)
    torch.manual_seed(1)
    model = SentenceTransformer(modules=[*base, *([Dense(32, 16)] if head else [])], device="cpu")
    model.prompts = base.prompts
    if recipe != "full":
        node = compose([f"recipes={recipe}", "adapter.layers=2"] if recipe == "lora"
                       else ["recipes=prefix", "adapter.length=5"]).adapter  # fmt: skip
        reads = adapter.Reads(TEXTS, (), 1, None, folder)
        finish = instantiate(node, _convert_="all").attach(model, reads)
        with torch.no_grad():
            changed = (
                prefix._prefix(models.inner(model)).values() if recipe == "prefix"
                else [p for name, p in model.named_parameters() if "lora_B" in name]
            )  # fmt: skip
            for parameter in changed:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if finish is not None:
            finish(folder)
    models.save(model, folder / "model")
    return models.load(folder / "model")


@pytest.fixture(scope="module", params=["full", "lora", "prefix"])
def recipe(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "dense"])
def bundle(request, recipe, tiny_model, tmp_path_factory):
    """The model, the bundle with every format and what was found about them."""
    folder = tmp_path_factory.mktemp(recipe)
    model = tuned(recipe, request.param, tiny_model, folder)
    found = export_bundle(
        model, models.TorchEncoder(model), TEXTS, folder / "bundle", ORIGIN, threads=1,
        dims=[8], calibration=[text[::-1] for text in TEXTS],
        **tiny_runs.export_settings(*PRECISIONS),
    )  # fmt: skip
    return model, folder / "bundle", found


def test_every_format_is_published_and_gives_the_vectors_of_torch(bundle):
    model, folder, found = bundle
    assert set(BundleInfo.read(folder).precisions) == set(found) == set(PRECISIONS)
    exact = models.TorchEncoder(model).encode(TEXTS, "query")
    for precision in PRECISIONS:
        vectors = OnnxEncoder.load(folder, precision, threads=1).encode(TEXTS, "query")
        assert vectors.shape == exact.shape and vectors.dtype == np.float32
        least = {"fp32": 0.99999, "fp16": 0.9999}.get(precision, 0.99)
        assert (vectors * exact).sum(axis=1).min() >= least, precision
        assert found[precision]["misses"] == {}
    json.dumps(found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_format_can_be_cut(bundle, precision):
    model, folder, _ = bundle
    exact = shortened(models.TorchEncoder(model).encode(TEXTS, "query"), 8)
    vectors = OnnxEncoder.load(folder, precision, threads=1, dim=8).encode(TEXTS, "query")
    least = {"fp32": 0.99999, "fp16": 0.9999}.get(precision, 0.98)
    assert (vectors * exact).sum(axis=1).min() >= least


def test_the_plans_say_what_was_done(bundle):
    model, folder, _ = bundle
    entries = BundleInfo.read(folder).precisions
    assert entries["fp32"].plan == {} and entries["fp16"].plan["fp16"] == "transformer"
    for precision in INT8:
        plan = entries[precision].plan
        # A part that is kept holds one product, or the three of query, key and value.
        assert len(plan["matmuls"]) + sum("MatMul" in name for name in plan["kept_fp32"]) == 12
        assert plan["quality"]["kept"] == len(plan["kept_fp32_for_quality"])
        assert plan["weight_texts"] == len(set(TEXTS))
        assert plan["range_texts"] == (0 if "dynamic" in precision else len(set(TEXTS)))
    assert entries["openvino-int8"].sha256 == entries["int8-static"].sha256
    assert entries["int8-static"].plan["range_percentile"] == 99.5


def test_fp16_is_half_the_size_and_adds_up_in_fp32(bundle):
    _, folder, found = bundle
    assert found["fp16"]["bytes"] < 0.75 * found["fp32"]["bytes"]  # its nodes are a good part here
    graph = onnx.load(folder / "fp16" / "model.onnx").graph
    matrices = {w.name: w.data_type for w in graph.initializer if len(w.dims) == 2}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    kinds = {matrices[node.input[1]] for node in products if node.input[1] in matrices}
    assert kinds == {TensorProto.FLOAT16}
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_fp16_on_a_cpu_says_so(bundle, caplog):
    with caplog.at_level(logging.WARNING):
        OnnxEncoder.load(bundle[1], "fp16", threads=1)
    assert "made for GPUs" in caplog.text
    caplog.clear()
    OnnxEncoder.load(bundle[1], "fp32", threads=1)
    assert not caplog.text


@pytest.mark.parametrize("precision", ["fp32", "int8-static", "openvino-int8"])
def test_a_vector_does_not_depend_on_its_batch(bundle, precision):
    encoder = OnnxEncoder.load(bundle[1], precision, threads=1)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS[:6]])
    np.testing.assert_allclose(encoder.encode(TEXTS)[:6], alone, atol=2e-5)
