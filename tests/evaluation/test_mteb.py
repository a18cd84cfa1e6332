"""The metrics against mteb's own functions, on random inputs: ties, gaps and tiny corpora."""

import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune.evaluation.reranking import ranking as order
from finetune.evaluation.reranking import score as score_candidates
from finetune.evaluation.retrieval import judged, ranking, score
from finetune.evaluation.sts import average_precision, best_f1, spearman
from finetune.sets import RerankingSet

from .test_trec import made

mteb = pytest.importorskip("mteb")  # of the extra `cmteb`

# mteb rounds the means of trec_eval's metrics to 5 digits: half of the last one.
ROUNDED = 5.1e-6


def by_mteb(qrels, run, depths):
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    with np.errstate(invalid="ignore"):  # its areas under curves, where all scores are the same
        return calculate_retrieval_scores(run, qrels, depths)


@pytest.mark.parametrize("seed", range(40))
def test_retrieval(seed):
    queries, corpus, scores, indices, qrels = made(seed)
    kept = [query for query in queries if judged(query, qrels)]
    run = {
        query: {corpus[index]: float(value) for index, value in zip(row, values, strict=True)}
        for query, row, values in zip(queries, indices.tolist(), scores, strict=True)
    }
    # Queries without an answer count as 0 there, and are left out here.
    found = by_mteb({q: qrels[q] for q in kept}, {q: run[q] for q in kept}, [10, 100])
    ours = score(ranking(queries, corpus, scores, indices), qrels)
    for metric, name in (("ndcg@10", "ndcg_cut_10"), ("recall@100", "recall_100")):
        expected = [found.all_scores[query][name] for query in kept]
        np.testing.assert_allclose(ours[metric], expected, atol=1e-6)
    assert ours["mrr@10"].mean() == pytest.approx(found.mrr["MRR@10"], abs=1e-6)
    assert ours["ndcg@10"].mean() == pytest.approx(found.ndcg["NDCG@10"], abs=ROUNDED)


@pytest.mark.parametrize("seed", range(15))
def test_reranking(seed):
    rng = random.Random(seed)
    names = [f"d{n}" for n in range(40)]
    candidates = {f"q{n}": tuple(rng.sample(names, rng.choice([1, 2, 12, 30]))) for n in range(20)}
    qrels = {q: {name: rng.randint(0, 1) for name in found} for q, found in candidates.items()}
    for query, found in candidates.items():
        qrels[query] |= {found[0]: 1, "gone": rng.randint(0, 1)}
    texts = dict.fromkeys(names, "")
    each = RerankingSet("r", dict.fromkeys(candidates, ""), texts, qrels, candidates)
    scores = [np.array([rng.randint(0, 4) / 4 for _ in found]) for found in candidates.values()]
    ours = score_candidates(order(each, scores), each)
    run = {q: dict(zip(candidates[q], values.tolist(), strict=True))
           for q, values in zip(candidates, scores, strict=True)}  # fmt: skip
    found = by_mteb(qrels, run, [10, 1000])
    expected = [found.all_scores[query]["map_cut_1000"] for query in candidates]
    np.testing.assert_allclose(ours["map"], expected, atol=1e-6)
    assert ours["map"].mean() == pytest.approx(found.map["MAP@1000"], abs=ROUNDED)
    assert ours["mrr@10"].mean() == pytest.approx(found.mrr["MRR@10"], abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=3, max_size=40))
def test_similarity(rows):
    cosines = np.array([cosine / 5 for cosine, _ in rows])
    scores = np.array([score / 4 for _, score in rows])
    assume(len(set(cosines)) > 1 and len(set(scores)) > 1)
    given_ = {"cosine_scores": cosines.tolist(), "manhattan_distances": cosines.tolist(),
              "euclidean_distances": cosines.tolist(), "similarity_scores": None}  # fmt: skip
    found = mteb.get_task("ATEC")._calculate_scores(given_, scores.tolist())
    assert spearman(cosines, scores).mean() == pytest.approx(found["cosine_spearman"], abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=3, max_size=40))
def test_pair_classification(rows):
    cosines = np.array([cosine / 5 for cosine, _ in rows])
    labels = np.array([int(label) for _, label in rows])
    assume(0 < labels.sum() < len(labels))
    found = mteb.get_task("Ocnli")._compute_metrics_values(cosines.tolist(), labels, True)
    assert average_precision(cosines, labels).mean() == pytest.approx(found["ap"], abs=1e-6)
    # That all pairs are alike is a threshold too, which mteb does not try.
    everything = 2 * labels.sum() / (len(labels) + labels.sum())
    best = max(found["f1"], everything)
    assert best_f1(cosines, labels).mean() == pytest.approx(best, abs=1e-6)
