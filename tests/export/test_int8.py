from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from finetune.export import Form, export_onnx, prepare, quantize
from finetune.export.int8 import steps
from finetune.export.weights import quantize_columns, quantize_rows

from .test_onnx import batch, onnx_vectors


def test_rows_worked_by_hand():
    weight = np.array([[1, -2, 0.5], [0, 0, 0], [254, 127, -1]], dtype=np.float32)
    int8, scale = quantize_rows(weight)
    np.testing.assert_allclose(scale, [2 / 127, 1, 2], rtol=1e-6)
    # 1 / (2/127) = 63.5 goes to the even neighbour, 64; .5 / (2/127) = 31.75; -1 / 2 = -.5 to 0.
    assert int8.tolist() == [[64, -127, 32], [0, 0, 0], [127, 64, 0]]
    assert int8.dtype == np.int8


def test_columns_are_rows_the_other_way():
    weight = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    int8, scale = quantize_columns(weight)
    assert int8.shape == (5, 3) and scale.shape == (3,)
    assert np.abs(int8 * scale - weight).max() <= scale.max() / 2 + 1e-6


def network(tmp_path, weights, nodes, columns=4):
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "fp32.onnx")
    return tmp_path / "fp32.onnx"


def run(file, x):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def quantized(file, out, form=Form.dynamic, feeds=(), keep=()):
    """Quantise with ranges found on the same batches."""
    ranged = feeds if form is Form.static else ()
    return quantize(file, out, prepare(file, form, feeds, ranged), keep)


@pytest.mark.parametrize("form", Form)
def test_a_product_worked_by_hand(tmp_path, form):
    weight = np.array([[127, 1], [0, -127], [-127, 64], [1, 0]], dtype=np.float32)  # scales 1
    file = network(tmp_path, {"w": weight}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    # From 0 to 255 the activation scale is 1 as well, so nothing is lost.
    x = np.array([[0, 255, 7, 100]], dtype=np.float32)
    quantize(file, tmp_path / "int8.onnx", prepare(file, form, (), [{"x": x}]))
    assert run(tmp_path / "int8.onnx", x).tolist() == (x @ weight).tolist() == [[-789, -31937]]


def test_a_static_scale_is_the_same_in_every_batch(tmp_path):
    weight = np.eye(4, dtype=np.float32)
    file = network(tmp_path, {"w": weight}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    x = np.array([[1, 2, 3, 2.5], [255, 0, 0, 0]], dtype=np.float32)
    for form, alone in ((Form.dynamic, [1, 2, 3, 2.5]), (Form.static, [1, 2, 3, 2])):
        quantize(file, tmp_path / "int8.onnx", prepare(file, form, (), [{"x": x}]))
        # The step is 1 where 255 is known: 2.5 goes to the even neighbour.
        assert run(tmp_path / "int8.onnx", x)[0].tolist() == pytest.approx([1, 2, 3, 2], abs=1e-5)
        assert run(tmp_path / "int8.onnx", x[:1])[0].tolist() == pytest.approx(alone, abs=6e-3)


def test_what_is_beyond_a_static_range_is_cut(tmp_path):
    file = network(tmp_path, {"w": np.eye(4, dtype=np.float32)},
                   [helper.make_node("MatMul", ["x", "w"], ["y"])])  # fmt: skip
    quantized(file, tmp_path / "int8.onnx", Form.static, [{"x": np.array([[0, 1, 2, 2.55]], "f4")}])
    found = run(tmp_path / "int8.onnx", np.array([[-7, 1, 2, 7]], "f4"))
    np.testing.assert_allclose(found, [[0, 1, 2, 2.55]], atol=1e-6)


def test_the_static_form_needs_ranges(tmp_path):
    file = network(tmp_path, {"w": np.eye(4, dtype=np.float32)},
                   [helper.make_node("MatMul", ["x", "w"], ["y"])])  # fmt: skip
    with pytest.raises(ValueError, match="static INT8 needs the ranges"):
        prepare(file, Form.static)


@pytest.mark.parametrize(
    ("least", "most", "scale", "zero"),
    [(0, 255, 1, 0), (-51, 204, 1, 51), (10, 25.5, 0.1, 0), (-25.5, -1, 0.1, 255), (0, 0, 1, 0)],
)
def test_steps_worked_by_hand(least, most, scale, zero):
    found = steps(least, most)
    assert float(found[0]) == pytest.approx(scale) and int(found[1]) == zero


@pytest.mark.parametrize("form", Form)
def test_what_is_kept_stays_exact(tmp_path, form):
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 4)).astype(np.float32) for name in "vw"}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["hidden"], "first"),
        helper.make_node("MatMul", ["hidden", "w"], ["y"], "second"),
    ]
    file = network(tmp_path, weights, nodes)
    x = rng.standard_normal((9, 4)).astype(np.float32)
    prepared = prepare(file, form, (), [{"x": x}])
    assert prepared.groups == ("x", "hidden")
    exact = x @ weights["v"] @ weights["w"]
    errors = []
    for keep in ((), ("x",), ("x", "hidden")):
        plan = quantize(file, tmp_path / "int8.onnx", prepared, keep)
        errors.append(np.abs(run(tmp_path / "int8.onnx", x) - exact).mean())
        names = [node for name, node in (("x", "first"), ("hidden", "second")) if name in keep]
        assert list(plan.kept_fp32) == names
        assert len(plan.matmuls) == plan.activation_quantizers == 2 - len(keep)
    assert errors[0] > errors[1] > 1e-4 > 1e-6 > errors[2]


def test_readers_of_one_activation_share_its_quantiser(tmp_path):
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 4)).astype(np.float32) for name in "qkv"}
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}x"], name) for name in "qkv"]
    nodes.append(helper.make_node("Sum", ["qx", "kx", "vx"], ["y"]))
    plan = quantized(network(tmp_path, weights, nodes), tmp_path / "int8.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert found["DynamicQuantizeLinear"] == plan.activation_quantizers == 1
    assert found["MatMulInteger"] == len(plan.matmuls) == 3
    assert [entry.node for entry in plan.matmuls] == ["q", "k", "v"]


def test_smoothing_helps_where_a_channel_stands_out(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 32)).astype(np.float32)
    x = rng.standard_normal((200, 64)).astype(np.float32)
    x[:, 5] *= 60
    nodes = [
        helper.make_node("Identity", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    file = network(tmp_path, {"w": weight}, nodes, 64)
    assert quantized(file, tmp_path / "plain.onnx").smoothed == ()
    assert quantized(file, tmp_path / "smooth.onnx", feeds=[{"x": x}]).smoothed == ("h",)
    errors = [
        np.abs(run(tmp_path / f"{name}.onnx", x) - x @ weight).mean()
        for name in ("plain", "smooth")
    ]
    assert errors[1] < errors[0] / 2


@pytest.fixture
def leaning(tmp_path):
    """`y = h @ w + b` with channels of h on either side, far from zero."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((64, 96)).astype(np.float32), "b": rng.normal(size=96)}
    weights["b"] = weights["b"].astype(np.float32)
    nodes = [
        helper.make_node("Identity", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["product"]),
        helper.make_node("Add", ["b", "product"], ["y"]),
    ]
    x = rng.standard_normal((200, 64)) + np.where(np.arange(64) % 2, 9, -9)
    return network(tmp_path, weights, nodes, 64), x.astype(np.float32), weights


@pytest.mark.parametrize("form", Form)
def test_the_bias_makes_up_for_a_shift(leaning, form):
    file, x, weights = leaning
    exact = x @ weights["w"] + weights["b"]
    out = file.with_name("int8.onnx")
    plan = quantize(file, out, prepare(file, form, [{"x": x}], [{"x": x}]))
    assert plan.shifted == ("h",)
    error = np.abs(run(out, x) - exact).mean()
    plain = quantize(file, out, prepare(file, form, (), [{"x": x}]))
    assert plain.shifted == ()
    assert error < np.abs(run(out, x) - exact).mean() / 2
    assert [node.op_type for node in onnx.load(out).graph.node].count("Add") == 1


def test_what_stays_in_fp32_is_exact_and_not_called_shifted(leaning):
    file, x, weights = leaning
    out = file.with_name("int8.onnx")
    plan = quantize(file, out, prepare(file, Form.dynamic, [{"x": x}]), ["h"])
    assert plan.shifted == () and plan.kept_fp32
    np.testing.assert_allclose(run(out, x), x @ weights["w"] + weights["b"], rtol=1e-4, atol=1e-4)


def test_a_token_that_stands_out_costs_the_others_nothing(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 32)).astype(np.float32)
    x = np.maximum(rng.standard_normal((3, 40, 64)), -0.2).astype(np.float32)
    x[:, 0] = np.maximum(100 * x[:, 0], -0.2)  # the first token of three texts
    nodes = [
        helper.make_node("Identity", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    file = network(tmp_path, {"w": weight}, nodes, 64)
    x = x.reshape(120, 64)
    errors = []
    for feeds in ([{"x": x}], ()):
        out = tmp_path / "int8.onnx"
        plan = quantize(file, out, prepare(file, Form.dynamic, feeds))
        assert plan.by_row == (("h",) if feeds else ())
        errors.append(np.abs(run(out, x) - x @ weight)[1:40].mean())
    assert errors[0] < errors[1] / 20


def test_a_weight_that_serves_two_activations_is_not_smoothed(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    x = rng.standard_normal((50, 64)).astype(np.float32)
    x[:, 5] *= 60
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["once"]),
        helper.make_node("MatMul", ["once", "w"], ["y"]),
    ]
    file = network(tmp_path, {"w": weight}, nodes, 64)
    assert quantized(file, tmp_path / "int8.onnx", feeds=[{"x": x}]).smoothed == ()


def test_a_graph_without_matmuls(tmp_path):
    file = network(tmp_path, {}, [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(RuntimeError, match="no MatMul with a constant weight"):
        prepare(file, Form.dynamic)


@pytest.fixture(scope="module")
def fp32(realistic, tmp_path_factory):
    file = tmp_path_factory.mktemp("int8") / "fp32.onnx"
    export_onnx(realistic, file)
    return file


@pytest.fixture(scope="module", params=Form)
def files(request, fp32):
    int8 = fp32.with_name(f"{request.param.value}.onnx")
    ids, mask = batch(16, 40, vocabulary=3000, seed=1)
    feed = {"input_ids": ids, "attention_mask": mask}
    return fp32, int8, quantize(fp32, int8, prepare(fp32, request.param, (), [feed]))


def test_a_real_geometry_keeps_its_vectors(files):
    fp32, int8, _ = files
    ids, mask = batch(24, 40, vocabulary=3000)
    exact, other = onnx_vectors(fp32, ids, mask), onnx_vectors(int8, ids, mask)
    assert (exact * other).sum(axis=1).min() > 0.999
    centred = exact - exact.mean(axis=0), other - exact.mean(axis=0)
    cosine = (centred[0] * centred[1]).sum(axis=1) / np.prod(
        [np.linalg.norm(side, axis=1) for side in centred], axis=0
    )
    assert cosine.mean() > 0.99


def test_the_plan_of_a_real_geometry(files):
    fp32, int8, plan = files
    # 4 layers of query, key, value, attention output and two of the feed-forward part.
    assert len(plan.matmuls) == 24 and plan.activation_quantizers == 16
    assert [entry.shape for entry in plan.embeddings] == [(3005, 512)]
    assert any("position_embeddings" in name for name in plan.kept_fp32)
    quantized = sum(entry.bytes for entry in plan.matmuls + plan.embeddings)
    assert quantized < int8.stat().st_size < fp32.stat().st_size * 0.3


def test_onnx_runtime_fuses_it_into_its_fast_products(files, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(files[1]), options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["MatMulInteger"] == 0
    if "dynamic" in files[1].name:
        # Three readers of one quantised activation a layer; the others quantise on their own.
        assert found["MatMulIntegerToFloat"] == found["DynamicQuantizeMatMul"] == 12
    else:
        assert found["MatMulIntegerToFloat"] == 24 and found["QuantizeLinear"] == 16
        assert found["DequantizeLinear"] == 0
