import numpy as np
import pytest

from finetune.export import Parity, check_parity, compare


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_same_vectors():
    vectors = unit(np.random.default_rng(0).standard_normal((30, 8)))
    parity = compare(vectors, vectors)
    assert parity.texts == 30 and parity.top10_overlap == 1
    assert parity.min_cosine == pytest.approx(1) and parity.centred_cosine == pytest.approx(1)


def test_worked_by_hand():
    reference = np.array([[1, 0], [0, 1]], dtype=np.float32)
    candidate = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    parity = compare(reference, candidate)
    assert parity.min_cosine == pytest.approx(0.8)
    assert parity.mean_cosine == pytest.approx(0.9)
    # The mean is (.5, .5): (.5, -.5) against itself is 1, (-.5, .5) against (.1, .3) is 1/sqrt 5.
    assert parity.centred_cosine == pytest.approx((1 + 5**-0.5) / 2)
    assert parity.top10_overlap == 1  # each has one other text


def test_overlap_counts_shared_neighbours():
    rng = np.random.default_rng(0)
    reference, other = unit(rng.standard_normal((50, 8))), unit(rng.standard_normal((50, 8)))

    def nearest(vectors):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -9)
        return [set(row) for row in np.argsort(-scores, axis=1)[:, :10].tolist()]

    shared = [len(a & b) / 10 for a, b in zip(nearest(reference), nearest(other), strict=True)]
    assert compare(reference, other).top10_overlap == pytest.approx(np.mean(shared))


def test_centring_tells_apart_what_a_narrow_cone_hides():
    rng = np.random.default_rng(0)
    cone = unit(rng.standard_normal((100, 16)) * 0.1 + 3)
    parity = compare(cone, np.roll(cone, 1, axis=0))  # every vector is another text's
    assert parity.mean_cosine > 0.99
    assert abs(parity.centred_cosine) < 0.1


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (3, 5), (2, 4)])
def test_shapes_that_do_not_fit(rows, columns):
    reference = np.ones((rows if rows == 1 else 3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="expected the same"):
        compare(reference, np.ones((rows, columns), dtype=np.float32))


def parity(cosine=1.0, centred=1.0):
    return Parity(
        texts=9, min_cosine=cosine, mean_cosine=1.0, centred_cosine=centred, top10_overlap=1.0
    )


def test_good_ones_pass():
    check_parity(parity(0.99995), "fp32")
    check_parity(parity(0.96, 0.97), "int8-dynamic")


@pytest.mark.parametrize(
    ("found", "precision", "message"),
    [
        (parity(0.9998), "fp32", "fp32 is not published.*9 texts, min cosine is 0.99980.*0.9999"),
        (parity(1, 0.9), "int8-dynamic", "mean-centred cosine is 0.90000, expected at least 0.95"),
        (parity(float("nan")), "fp32", "min cosine is nan"),
    ],
)
def test_bad_ones_are_named_with_numbers(found, precision, message):
    with pytest.raises(RuntimeError, match=message):
        check_parity(found, precision)


def test_a_precision_without_a_floor():
    with pytest.raises(ValueError, match="expected one of fp32, int8-dynamic"):
        check_parity(parity(), "int3")
