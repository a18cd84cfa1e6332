import sys
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.inference import index, searcher, top_k


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus():
    """5,000 texts about 100 things."""
    rng = np.random.default_rng(0)
    topics = unit(rng.standard_normal((100, 32)))
    return unit(topics[rng.integers(0, 100, 5000)] + 0.15 * rng.standard_normal((5000, 32)))


@pytest.fixture(scope="module")
def queries(corpus):
    rng = np.random.default_rng(1)
    return unit(corpus[rng.integers(0, len(corpus), 200)] + 0.05 * rng.standard_normal((200, 32)))


def recall(found, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)])


@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_nearly_all_of_the_nearest_are_found(corpus, queries, method):
    pytest.importorskip("faiss")
    scores, indices = searcher(corpus, method, len(queries))(queries, 10)
    assert recall(indices, top_k(queries, corpus, 10)[1]) >= 0.95
    assert scores.dtype == np.float32 and indices.dtype == np.int64
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.einsum("nd,nkd->nk", queries, corpus[indices]), atol=1e-5)


@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_as_many_as_mining_looks_at_are_found_too(corpus, queries, method):
    pytest.importorskip("faiss")
    _, indices = searcher(corpus, method, len(queries))(queries, 400)
    assert indices.shape == (200, 400)
    assert recall(indices, top_k(queries, corpus, 400)[1]) >= 0.95


def test_a_graph_is_the_same_however_many_threads_build_it(corpus):
    faiss = pytest.importorskip("faiss")
    before = faiss.omp_get_max_threads()
    graphs = []
    try:
        for threads in (1, 4):
            faiss.omp_set_num_threads(threads)
            built = index.Index(corpus[:1000], "hnsw")
            graphs.append(faiss.vector_to_array(built._index.hnsw.neighbors))
    finally:
        faiss.omp_set_num_threads(before)
    np.testing.assert_array_equal(*graphs)


def test_clusters_on_disk_give_the_same_over_a_memory_map_read_in_parts(
    corpus, queries, tmp_path, monkeypatch
):
    pytest.importorskip("faiss")
    expected = searcher(corpus, "ivf", 200)(queries, 10)
    monkeypatch.setattr(index, "BLOCK", 3000)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    find = searcher(mapped, "ivf", 200, tmp_path)
    assert "clusters.ivf (deleted)" in Path("/proc/self/maps").read_text()
    found = find(queries, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.npy"]
    np.testing.assert_array_equal(found[1], expected[1])


def test_equal_scores_are_ordered_by_index(corpus):
    pytest.importorskip("faiss")
    twice = np.concatenate([corpus[:3000]] * 2)
    _, indices = searcher(twice, "ivf", 5)(corpus[:50], 2)
    assert indices.tolist() == [[n, n + 3000] for n in range(50)]


def test_more_asked_than_the_clusters_hold_is_answered_exactly(corpus, queries, monkeypatch):
    faiss = pytest.importorskip("faiss")
    few = corpus[:1000]
    one = faiss.SearchParametersIVF(nprobe=1)
    monkeypatch.setattr(index.Index, "_effort", lambda self, k: one)
    np.testing.assert_array_equal(
        searcher(few, "ivf", 200)(queries, 900)[1], top_k(queries, few, 900)[1]
    )


@pytest.mark.parametrize("method", index.METHODS)
def test_an_empty_corpus_has_no_neighbours(corpus, queries, method):
    scores, indices = searcher(corpus[:0], method, 200)(queries, 5)
    assert scores.shape == indices.shape == (200, 0)


def test_auto_is_exact_until_that_takes_too_long(corpus, queries, monkeypatch):
    pytest.importorskip("faiss")
    expected = top_k(queries, corpus, 5)
    np.testing.assert_array_equal(searcher(corpus, "auto", 200)(queries, 5)[1], expected[1])
    monkeypatch.setattr(index, "EXACT_PRODUCTS", 200 * len(corpus) - 1)
    made = []
    monkeypatch.setattr(index.Index, "__init__", lambda self, *of: made.append(of[1]))
    searcher(corpus, "auto", 200)
    assert made == ["ivf"]


def test_without_faiss_it_says_what_to_install(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'finetune\[search\]'"):
        searcher(corpus, "ivf", 10)
    assert searcher(corpus, "exact", 10)(corpus[:1], 1)[1].tolist() == [[0]]


def test_an_unknown_method(corpus):
    with pytest.raises(UserError, match="search=lsh: expected exact, auto, ivf, hnsw"):
        searcher(corpus, "lsh", 10)


def test_auto_without_faiss_stays_exact_and_says_so(corpus, monkeypatch, caplog):
    monkeypatch.setattr(index, "find_spec", lambda name: None)
    monkeypatch.setattr(index, "EXACT_PRODUCTS", 1)
    found = searcher(corpus, "auto", 200)(corpus[:3], 2)[1]
    np.testing.assert_array_equal(found, top_k(corpus[:3], corpus, 2)[1])
    assert "pip install 'finetune[search]'" in caplog.text
