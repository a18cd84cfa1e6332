import numpy as np
import pytest

from finetune.export.calibration import observe
from finetune.export.rounding import round_columns
from finetune.export.weights import quantize_columns


def correlated(rows, size, seed=0):
    """Activations with most of their variance in a few directions, as in a trained encoder."""
    rng = np.random.default_rng(seed)
    strong = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, size)) * 3
    return strong + rng.normal(size=(rows, size))


def error(activations, weight, rounded):
    int8, scale = rounded
    return np.square(activations @ (weight - int8 * scale)).mean()


def test_uncorrelated_activations_leave_nothing_to_make_up():
    weight = np.random.default_rng(1).normal(size=(200, 7)).astype(np.float32)
    int8, scale = round_columns(weight, np.eye(200))
    nearest, nearest_scale = quantize_columns(weight)
    np.testing.assert_array_equal(int8, nearest)
    np.testing.assert_allclose(scale, nearest_scale, rtol=1e-6)


def test_hand_worked_pair_of_equal_channels():
    # Two channels that always carry the same value: only the sum of their weights matters. The
    # steps are 1 (the largest weight is 127): 0.4 + 0.4 rounds to 0 + 0 alone, to 0 + 1 together.
    weight = np.array([[0.4], [0.4], [127]], np.float32)
    gram = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    int8, scale = round_columns(weight, gram)
    np.testing.assert_array_equal(int8, [[0], [1], [127]])
    np.testing.assert_allclose(scale, [1])


def test_the_row_of_the_larger_activation_is_rounded_first():
    # The second channel is always three times the first, so .4 + 3 x .4 = 1.6 should be met. First
    # .4 becomes 0, then .4 + 3 x .4 goes to 2; in the other order it would be 0 and 1, that is 3.
    weight = np.array([[0.4], [0.4], [127]], np.float32)
    gram = np.array([[1.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(round_columns(weight, gram)[0], [[2], [0], [127]])


@pytest.mark.parametrize("size", [64, 300])  # within a block, and over several
def test_error_on_held_out_activations_is_well_below_nearest(size):
    weight = np.random.default_rng(1).normal(size=(size, 32)).astype(np.float32)
    seen, held_out = np.split(correlated(6_000, size), 2)
    rounded = round_columns(weight, seen.T @ seen)
    nearest = quantize_columns(weight)
    assert error(held_out, weight, rounded) < 0.5 * error(held_out, weight, nearest)
    assert rounded[0].dtype == np.int8
    assert np.abs(rounded[0].astype(int)).max() <= 127


def test_channels_that_the_texts_never_used():
    weight = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    activations = correlated(100, 8)
    activations[:, 5] = 0
    int8, scale = round_columns(weight, activations.T @ activations)
    np.testing.assert_allclose(int8[5] * scale, weight[5], atol=scale.max() / 2 + 1e-6)


def test_column_of_zeros():
    weight = np.zeros((4, 2), np.float32)
    int8, scale = round_columns(weight, np.eye(4))
    assert not int8.any()
    np.testing.assert_array_equal(scale, [1, 1])


def test_gram_matrices_sum_over_batches():
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["y"], ["z"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "s", 2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", "s", 2])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    first = np.array([[[1, 2], [3, 4]]], np.float32)
    second = np.array([[[5, 6]]], np.float32)
    seen = observe(model, ["y"], [{"x": first}, {"x": second}])
    np.testing.assert_array_equal(seen["y"].gram, [[1 + 9 + 25, 2 + 12 + 30], [44, 4 + 16 + 36]])
