"""The metrics against trec_eval itself, on random rankings with ties, gaps and tiny corpora."""

import random

import numpy as np
import pytest

from finetune.evaluation.retrieval import DEPTH, judged, ranking, score
from finetune.inference import top_k

pytrec_eval = pytest.importorskip("pytrec_eval")  # of the extra `dev`

NAMES = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100"}


def made(seed):
    """A search whose scores are few, so that most tie, and qrels that name what is not there."""
    rng = random.Random(seed)
    corpus = [f"d{n}" for n in range(rng.choice([1, 2, 7, 40, 100, 130]))]
    rng.shuffle(corpus)
    queries = [f"q{n}" for n in range(25)]
    numbers = np.random.default_rng(seed)
    # Small whole numbers: their products are exact, and few of them differ.
    vectors = numbers.integers(0, 3, (len(corpus), 2)).astype(np.float32)
    asked = numbers.integers(0, 3, (len(queries), 2)).astype(np.float32)
    qrels = {
        query: {name: rng.randint(-1, 3) for name in rng.sample([*corpus, "gone"], k=min(
            len(corpus), rng.randint(1, 15)))}
        for query in queries if query != "q7"
    }  # fmt: skip
    return queries, corpus, *top_k(asked, vectors, DEPTH), qrels


@pytest.mark.parametrize("seed", range(40))
def test_as_trec_eval(seed):
    queries, corpus, scores, indices, qrels = made(seed)
    found = ranking(queries, corpus, scores, indices)
    # trec_eval orders by itself: its order of ties is the reference for ours.
    run = {
        query: {corpus[index]: float(value) for index, value in zip(row, values, strict=True)}
        for query, row, values in zip(queries, indices.tolist(), scores, strict=True)
    }
    measures = {"ndcg_cut", "recip_rank", "recall"}
    reference = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    kept = [query for query in queries if judged(query, qrels)]
    ours = score(found, qrels)
    for metric, name in NAMES.items():
        expected = [reference[query][name] for query in kept]
        np.testing.assert_allclose(ours[metric], expected, atol=1e-6)
    # trec_eval does not cut the reciprocal rank: 1 / 11 and less is 0 here.
    ranks = [reference[query]["recip_rank"] for query in kept]
    np.testing.assert_allclose(ours["mrr@10"], [r if r > 0.0999 else 0 for r in ranks], atol=1e-6)
