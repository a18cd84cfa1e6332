import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.inference import search, top_k


def full_sort(queries, corpus, k):
    scores = (queries @ corpus.T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def test_worked_by_hand():
    corpus = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], dtype=np.float32)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    scores, indices = top_k(queries, corpus, 3)
    assert indices.tolist() == [[0, 3, 2], [1, 2, 0]]
    np.testing.assert_allclose(scores, [[1, 1, 0.6], [1, 0.8, 0]], rtol=1e-6)
    assert scores.dtype == np.float32 and indices.dtype == np.int64


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_equals_a_full_sort_with_ties_in_every_block_size(data):
    n = data.draw(st.integers(0, 7))
    m = data.draw(st.integers(1, 40))
    k = data.draw(st.integers(1, 45))
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    # Small integers: products are exact and ties are everywhere.
    queries = rng.integers(-2, 3, (n, 3)).astype(np.float32)
    corpus = rng.integers(-2, 3, (m, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "QUERY_BLOCK", data.draw(st.integers(1, 4)))
        patch.setattr(search, "QUERY_BLOCKS", data.draw(st.integers(1, 3)))
        patch.setattr(search, "CORPUS_BLOCK", data.draw(st.integers(1, 12)))
        scores, indices = top_k(queries, corpus, k)
    expected_scores, expected_indices = full_sort(queries, corpus, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_a_corpus_sorted_by_likeness(order, monkeypatch):
    monkeypatch.setattr(search, "CORPUS_BLOCK", 100)
    likeness = {"rising": np.arange(500), "falling": -np.arange(500), "equal": np.zeros(500)}
    corpus = likeness[order].astype(np.float32)[:, None]
    scores, indices = top_k(np.ones((2, 1), np.float32), corpus, 3)
    assert indices[0].tolist() == {
        "rising": [499, 498, 497], "falling": [0, 1, 2], "equal": [0, 1, 2]
    }[order]  # fmt: skip
    assert scores[1].tolist() == corpus[indices[1], 0].tolist()


def test_more_asked_than_there_is():
    scores, indices = top_k(np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32), 10)
    assert scores.shape == indices.shape == (2, 3)


def test_empty_sides():
    assert top_k(np.empty((0, 3)), np.ones((4, 3)), 2)[1].shape == (0, 2)
    assert top_k(np.ones((4, 3)), np.empty((0, 3)), 2)[1].shape == (4, 0)


def test_reads_a_memory_map_of_half_floats(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "corpus.npy"
    np.save(path, rng.standard_normal((300, 8)).astype(np.float16))
    corpus = np.load(path, mmap_mode="r")
    queries = rng.standard_normal((5, 8)).astype(np.float32)
    assert (
        top_k(queries, corpus, 4)[1].tolist()
        == full_sort(queries, np.asarray(corpus, dtype=np.float32), 4)[1].tolist()
    )


@pytest.mark.parametrize(
    ("queries", "corpus", "k", "message"),
    [
        (np.ones((1, 2)), np.ones((1, 3)), 1, "same model"),
        (np.ones(2), np.ones((1, 2)), 1, "expected .n, d."),
        (np.ones((1, 2)), np.ones((1, 2)), 0, "k is 0"),
        (np.ones((1, 2)), np.full((1, 2), np.nan), 1, "NaN"),
    ],
)
def test_refuses(queries, corpus, k, message):
    with pytest.raises(ValueError, match=message):
        top_k(queries, corpus, k)
