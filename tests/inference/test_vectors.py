import numpy as np
import pytest

from finetune.inference import as_float32, as_type, top_k


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def alike():
    """Vectors as embedding models make them: close together (mean cosine .8), in 384 numbers."""
    rng = np.random.default_rng(0)
    return unit(2 * unit(rng.standard_normal((1, 384))) + unit(rng.standard_normal((3000, 384))))


def overlap(vectors, stored):
    """Share of each vector's ten nearest that stay when queries are float32 and the rest is not."""
    exact = top_k(vectors[:300], vectors, 11)[1][:, 1:]
    found = top_k(vectors[:300], stored, 11)[1][:, 1:]
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])


def test_worked_by_hand():
    vectors = np.array([[0.6, -0.8], [0.5, 0.25], [0, 0]], dtype=np.float32)
    stored = as_type(vectors, "int8")
    # 127 / 0.8 and 127 / 0.5: 95.25 and 63.5, which rounds to the even one.
    assert stored.tolist() == [[95, -127], [127, 64], [0, 0]] and stored.dtype == np.int8
    np.testing.assert_allclose(as_float32(stored)[0], [0.6, -0.8], atol=0.002)
    assert as_float32(stored)[2].tolist() == [0, 0]
    assert as_type(vectors, "float16").dtype == np.float16
    assert as_type(vectors, "float32") is vectors
    assert as_type(np.empty((0, 3), np.float32), "int8").shape == (0, 3)


def test_the_ten_nearest_stay(alike):
    assert overlap(alike, as_type(alike, "float16")) >= 0.99
    assert overlap(alike, as_type(alike, "int8")) >= 0.95
    # Why a vector has a scale of its own: one for all leaves a few values a number.
    assert overlap(alike, np.rint(127 * alike).astype(np.int8)) < 0.9


def test_int8_vectors_are_compared_by_cosine():
    corpus = np.array([[127, 0], [127, 127], [1, 2]], dtype=np.int8)
    scores, indices = top_k(np.array([[0, 5]], dtype=np.int8), corpus, 3)
    assert indices.tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(scores, [[2 / 5**0.5, 0.5**0.5, 0]], atol=1e-6)


def test_an_unknown_type():
    with pytest.raises(ValueError, match="'binary'; expected float32, float16, int8"):
        as_type(np.ones((1, 2), np.float32), "binary")
