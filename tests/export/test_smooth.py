import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from finetune.export.calibration import Observed, extremes, observe
from finetune.export.smooth import RowScale, best_map, expected_error, row_scale, smoothing
from finetune.export.weights import quantize_columns


def seen(activations):
    a = np.asarray(activations, np.float32)
    a64 = a.astype(np.float64)
    return Observed(a.min(axis=0), a.max(axis=0), a64.mean(axis=0), a64.T @ a64, len(a))


def test_the_expected_error_worked_by_hand():
    # The range is 255 and the step of activations 1, that of the weight's columns 1 and 2; seen
    # are two rows. 2 rows x 1 x (127² + 254²), and .4 x (1 + 4) x (255² + 51²), by 12.
    found = expected_error(seen([[255, 0], [0, 51]]), np.array([[127, 0], [0, 254]], "f4"), ONES)
    assert found == pytest.approx((2 * (127**2 + 254**2) + 0.4 * 5 * (255**2 + 51**2)) / 12)


ONES = np.ones(2)


def test_the_expected_error_is_about_what_rounding_adds():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (400, 32)).astype(np.float32)
    w = rng.standard_normal((32, 48)).astype(np.float32)
    spread = rng.uniform(0.5, 3, 32)
    step = (a / spread).max() - (a / spread).min()
    rounded = np.round(a / spread / (step / 255)) * (step / 255) @ (w * spread[:, None])
    of_activations = np.square(rounded - a @ w).sum()
    int8, scale = quantize_columns((w * spread[:, None]).astype(np.float32))
    of_weights = np.square((a / spread) @ (int8 * scale) - a @ w).sum()
    assert expected_error(seen(a), w, spread) == pytest.approx(
        of_activations + 0.4 * of_weights, rel=0.1
    )


def test_no_outlier_no_smoothing():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((100, 8)).astype(np.float32)
    assert smoothing(seen(rng.uniform(-1, 1, (200, 100))), weight) is None
    assert smoothing(seen(np.zeros((9, 100))), weight) is None


def test_an_outlier_is_divided_and_nothing_is_made_larger():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (200, 100))
    a[:, 7] *= 32
    weight = rng.standard_normal((100, 8)).astype(np.float32)
    divisor = smoothing(seen(a), weight)
    assert divisor.dtype == np.float32 and divisor.min() == 1
    assert divisor.argmax() == 7 and divisor[7] > 3 and np.delete(divisor, 7).max() < 1.2
    plain, smooth = (expected_error(seen(a), weight, d) for d in (np.ones(100), divisor))
    assert smooth < plain / 4


def test_what_a_shift_leaves_is_what_would_have_been_seen():
    a = np.random.default_rng(0).normal(2, 1, (50, 6)).astype(np.float32)
    shift = np.linspace(-1, 3, 6).astype(np.float32)
    moved, expected = seen(a).shifted(shift), seen(a - shift)
    for name in ("least", "most", "mean", "gram"):
        np.testing.assert_allclose(getattr(moved, name), getattr(expected, name), rtol=1e-5)
    both = seen(a[:20]) + seen(a[20:])
    np.testing.assert_allclose(both.mean, seen(a).mean)


def test_channels_on_one_side_are_shifted_to_their_middle():
    rng = np.random.default_rng(0)
    sides = np.where(np.arange(64) % 2, 8, -8)
    a = rng.uniform(-1, 1, (200, 64)) + sides
    weight = rng.standard_normal((64, 8)).astype(np.float32)
    found = best_map(seen(a), weight, shiftable=True)
    np.testing.assert_allclose(found.shift, sides, atol=0.1)
    assert best_map(seen(a), weight, shiftable=False).shift is None


def test_values_that_are_mostly_zero_are_not_shifted():
    rng = np.random.default_rng(0)
    a = np.maximum(rng.standard_normal((200, 64)) - 1, 0)
    weight = rng.standard_normal((64, 8)).astype(np.float32)
    assert best_map(seen(a), weight, shiftable=True).shift is None


def test_rows_of_which_few_stand_out_have_scales_of_their_own():
    # Nine rows reach from -.2 to .8, one to 9.8: the mean range is 1.9, of which .2 lies below 0.
    least, most = np.full(10, -0.2, "f4"), np.array([0.8] * 9 + [9.8], "f4")
    assert row_scale(least, most) == RowScale(27, pytest.approx(0.2 / 27))
    assert row_scale(least, np.full(10, 0.8, "f4")) is None  # none stands out
    assert row_scale(-most, -least) is None  # the other way round: nothing bounds them
    assert row_scale(np.zeros(10, "f4"), most).zero == 0
    assert row_scale(np.zeros(3, "f4"), np.zeros(3, "f4")) is None


@pytest.fixture
def doubling():
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_ends_and_products_are_of_all_batches(doubling):
    feeds = [{"input_ids": np.array([[1, 0]])}, {"input_ids": np.array([[2], [0]])}]
    found = observe(doubling, ["hidden", "out"], feeds)
    assert found["hidden"].least.tolist() == [-3, -5] and found["hidden"].most.tolist() == [1, 2]
    assert found["out"].least.tolist() == [-6, -10] and found["out"].rows == 4
    assert found["hidden"].gram.tolist() == [[10, -11], [-11, 29]]


def ends(model, feeds):
    least, most = extremes(model, ["hidden"], feeds)["hidden"]
    return least.tolist(), most.tolist()


def test_extremes_are_of_tokens(doubling):
    feeds = [{"input_ids": np.array([[1, 2, 0], [2, 0, 0]])}]
    assert ends(doubling, feeds) == ([-5, -3, 0, -3, 0, 0], [1, 2, 0, 2, 0, 0])


def test_extremes_leave_out_padding(doubling):
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "s"])
    doubling.graph.input.append(mask)
    feed = {"input_ids": np.array([[1, 2], [1, 2]]), "attention_mask": np.array([[1, 1], [1, 0]])}
    assert ends(doubling, [feed]) == ([-5, -3, -5], [1, 2, 1])


def test_no_batches_no_maxima(doubling):
    assert observe(doubling, ["hidden"], []) == {}
    assert extremes(doubling, ["hidden"], []) == {}


def test_no_tensors_no_maxima(doubling):
    assert observe(doubling, [], [{"input_ids": np.array([[1]])}]) == {}
