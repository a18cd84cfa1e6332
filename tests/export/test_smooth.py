import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from finetune.export.calibration import observe
from finetune.export.smooth import smoothing


def test_no_outlier_no_smoothing():
    assert smoothing(np.linspace(1, 1.5, 100, dtype=np.float32)) is None
    assert smoothing(np.zeros(8, dtype=np.float32)) is None


def test_worked_by_hand():
    maxima = np.ones(100, dtype=np.float32)
    maxima[7], maxima[3] = 32, 0.25
    divisor = smoothing(maxima)
    # The 95 % quantile is 1: 32 ** .7 = 2 ** 3.5; nothing is ever made larger.
    assert divisor[7] == pytest.approx(2**3.5, rel=1e-6)
    assert np.delete(divisor, 7).tolist() == [1] * 99
    assert divisor.dtype == np.float32


@pytest.fixture
def doubling(tmp_path):
    """`hidden = table[input_ids]`, `out = hidden * 2`."""
    table = np.array([[0, 0], [1, -5], [-3, 2]], dtype=np.float32)
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
            helper.make_node("Add", ["hidden", "hidden"], ["out"]),
        ],
        "doubling",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [*shape, 2])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "doubling.onnx")
    return tmp_path / "doubling.onnx"


def test_maxima_are_absolute_and_over_all_batches(doubling):
    feeds = [{"input_ids": np.array([[1, 0]])}, {"input_ids": np.array([[2], [0]])}]
    maxima = observe(doubling, ["hidden", "out"], feeds)
    assert maxima["hidden"].maxima.tolist() == [3, 5]
    assert maxima["out"].maxima.tolist() == [6, 10]


def test_no_batches_no_maxima(doubling):
    assert observe(doubling, ["hidden"], []) == {}


def test_no_tensors_no_maxima(doubling):
    assert observe(doubling, [], [{"input_ids": np.array([[1]])}]) == {}
