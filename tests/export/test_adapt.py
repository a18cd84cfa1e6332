"""A graph whose activations are adapted gives the same vectors, at next to no cost."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from finetune.export import export_onnx
from finetune.export.adapt import Affine, adapt
from finetune.export.graph import adaptable, biases, matrices, name_of, products

from .conftest import SHAPES
from .test_onnx import batch


def vectors(model, ids, mask):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def maps_of(graph, rng, *, shift=True, divisor=True):
    """Maps of every activation that may have one; shifts where each product has a bias."""
    known, biased = matrices(graph), biases(graph)
    found = {}
    for name in adaptable(graph):
        own = [node for node in products(graph) if node.input[0] == name]
        size = known[own[0].input[1]].dims[0]
        shiftable = shift and all(name_of(node) in biased for node in own)
        found[name] = Affine(
            rng.normal(size=size).astype("f4") if shiftable else None,
            rng.uniform(0.5, 3, size).astype("f4") if divisor else None,
        )
    return found


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_vectors_stay_the_same(shape, make_model, tmp_path):
    export_onnx(make_model(shape), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    feed = batch(5, 24)
    exact = vectors(model, *feed)
    adapt(model.graph, maps_of(model.graph, np.random.default_rng(0)))
    onnx.checker.check_model(model)
    np.testing.assert_allclose(vectors(model, *feed), exact, atol=1e-5)


def behind_norms(graph):
    norms = {node.output[0] for node in graph.node if node.op_type == "LayerNormalization"}
    return {name for name in adaptable(graph) if name in norms}


def test_a_shift_behind_a_layer_norm_costs_nothing(make_model, tmp_path):
    export_onnx(make_model("mean"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    before, norms = kinds(model), behind_norms(model.graph)
    maps = maps_of(model.graph, np.random.default_rng(0), divisor=False)
    assert len(norms) == 4  # two layers of two
    adapt(model.graph, {name: maps[name] for name in norms})
    assert kinds(model) == before


def test_a_divisor_behind_a_layer_norm_costs_one_node(make_model, tmp_path):
    export_onnx(make_model("mean"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    before, norms = kinds(model), behind_norms(model.graph)
    maps = maps_of(model.graph, np.random.default_rng(0))
    adapt(model.graph, {name: maps[name] for name in norms})
    assert kinds(model) - before == {"Mul": 4}


def test_attention_divides_its_values_instead(make_model, tmp_path):
    export_onnx(make_model("mean"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    before = kinds(model)
    contexts = [name for name in adaptable(model.graph) if "attention/self" in name]
    maps = maps_of(model.graph, np.random.default_rng(0), shift=False)
    assert len(contexts) == 2
    adapt(model.graph, {name: maps[name] for name in contexts})
    assert kinds(model) == before


def test_elsewhere_nodes_do_it(tmp_path):
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(4, 6)).astype("f4"), "b": rng.normal(size=6).astype("f4")}
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
        helper.make_node("ReduceSum", ["h"], ["z"]),  # reads the activation as it was
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    affine = Affine(np.array([1, 2, 0, -1], "f4"), np.array([2, 1, 4, 1], "f4"))
    adapt(model.graph, {"h": affine})
    assert kinds(model)["Sub"] == kinds(model)["Mul"] == 1
    model.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, None))
    x = rng.normal(size=(3, 4)).astype("f4")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, z, h = session.run(["y", "z", "h"], {"x": x})
    plain = np.maximum(x, 0)
    np.testing.assert_allclose(y, plain @ values["w"] + values["b"], rtol=1e-4, atol=1e-5)
    assert z.item() == pytest.approx(plain.sum(), rel=1e-5)
    np.testing.assert_allclose(h, (plain - affine.shift) / affine.divisor, rtol=1e-5, atol=1e-6)


def test_a_weight_that_serves_two_purposes_is_let_be():
    values = {"w": np.eye(4, dtype="f4")}
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
        helper.make_node("ReduceSum", ["w"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    assert adaptable(graph) == []
    del graph.node[2]
    assert adaptable(graph) == ["h"]
