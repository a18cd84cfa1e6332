import math
import random

import numpy as np
import pytest

from finetune.evaluation import retrieval
from finetune.evaluation.retrieval import METRICS, Ranking, judged, rank, ranking, score
from finetune.sets import EvaluationSet


def scores(documents, relevance):
    one = Ranking(("q",), (tuple(documents),), np.zeros((1, len(documents)), np.float32))
    return {metric: values.tolist() for metric, values in score(one, {"q": relevance}).items()}


@pytest.mark.parametrize(
    ("documents", "relevance", "ndcg", "mrr", "recall"),
    [
        # 1 at rank 1; 1 at rank 2: 1 / log2(3)
        (["a", "b"], {"a": 1}, 1.0, 1.0, 1.0),
        (["b", "a"], {"a": 1}, 0.63093, 0.5, 1.0),
        # (2/log2(3) + 1/log2(4)) / (2 + 1/log2(3)) = 1.76186 / 2.63093
        (["a", "b", "c"], {"a": 0, "b": 2, "c": 1}, 0.66967, 0.5, 1.0),
        # two of three found, at 1 and 4: (1 + 1/log2(5)) / (1 + .63093 + .5)
        (["a", "x", "y", "b"], {"a": 1, "b": 1, "gone": 1}, 0.67139, 1.0, 2 / 3),
        # at rank 11: out of ndcg@10 and mrr@10, within recall@100
        ([*"abcdefghij", "z"], {"z": 1}, 0.0, 0.0, 1.0),
        ([*"abcdefghi", "z"], {"z": 1}, 1 / math.log2(11), 0.1, 1.0),
        # at rank 101
        ([f"d{n}" for n in range(100)] + ["z"], {"z": 1}, 0.0, 0.0, 0.0),
        # a judged document that is not relevant takes nothing away
        (["a"], {"a": 1, "b": 0, "c": -1}, 1.0, 1.0, 1.0),
        (["c", "a"], {"a": 1, "c": -1}, 0.63093, 0.5, 1.0),
        # more than ten relevant documents: the ideal is cut at ten too
        ([*"abcdefghij"], dict.fromkeys("abcdefghijkl", 1), 1.0, 1.0, 10 / 12),
        (["x"], {"a": 1}, 0.0, 0.0, 0.0),
    ],
)  # fmt: skip
def test_against_values_worked_by_hand(documents, relevance, ndcg, mrr, recall):
    found = scores(documents, relevance)
    assert found["ndcg@10"] == [pytest.approx(ndcg, abs=1e-5)]
    assert found["mrr@10"] == [pytest.approx(mrr, abs=1e-9)]
    assert found["recall@100"] == [pytest.approx(recall, abs=1e-9)]


def slow(documents, relevance):
    """The definitions once more, without numpy."""
    gains = [max(relevance.get(document, 0), 0) for document in documents]
    ideal = sorted((r for r in relevance.values() if r > 0), reverse=True)

    def dcg(values):
        return sum(value / math.log2(place + 2) for place, value in enumerate(values[:10]))

    hits = [place for place, gain in enumerate(gains[:10]) if gain]
    return (
        dcg(gains) / dcg(ideal),
        1 / (hits[0] + 1) if hits else 0.0,
        sum(gain > 0 for gain in gains[:100]) / len(ideal),
    )


@pytest.mark.parametrize("seed", range(20))
def test_against_an_independent_implementation(seed):
    rng = random.Random(seed)
    corpus = [f"d{n}" for n in range(rng.choice([1, 2, 5, 30, 150]))]
    names = [*corpus, "gone"]  # qrels may name what no ranking can find
    queries, rows, qrels = [], [], {}
    for n in range(30):
        queries.append(f"q{n}")
        rows.append(tuple(rng.sample(corpus, min(100, len(corpus)))))
        judged_names = rng.sample(names, rng.randint(0, min(len(names), 20)))
        qrels[f"q{n}"] = {name: rng.randint(0, 3) for name in judged_names}
    del qrels["q7"]
    given = Ranking(tuple(queries), tuple(rows), np.zeros((30, len(rows[0])), np.float32))
    found = score(given, qrels)
    expected = [
        slow(row, qrels[query])
        for query, row in zip(queries, rows, strict=True)
        if any(r > 0 for r in qrels.get(query, {}).values())
    ]
    table = np.array(expected).reshape(-1, 3)
    for column, metric in enumerate(METRICS):
        np.testing.assert_allclose(found[metric], table[:, column], atol=1e-12)


def test_queries_without_a_relevant_document_are_not_scored():
    given = ranking(["a", "b", "c"], ["d"], np.ones((3, 1)), np.zeros((3, 1), np.int64))
    qrels = {"a": {"d": 1}, "b": {"d": 0}}
    assert [judged(query, qrels) for query in "abc"] == [True, False, False]
    assert {metric: len(values) for metric, values in score(given, qrels).items()} == dict.fromkeys(
        METRICS, 1
    )


def test_no_query_at_all():
    empty = Ranking((), (), np.zeros((0, 0), np.float32))
    assert {metric: values.shape for metric, values in score(empty, {}).items()} == dict.fromkeys(
        METRICS, (0,)
    )


class Compass:
    """Texts are degrees."""

    dim = 2

    def __init__(self):
        self.asked = []

    def encode(self, texts, prompt="passage", *, progress=None):
        self.asked.append((prompt, list(texts)))
        if progress is not None:
            progress(len(texts))
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


PLACES = EvaluationSet(
    "places", {"q1": "0", "q2": "90"}, {"north": "80", "east": "10", "south": "-80"},
    {"q1": {"east": 1}, "q2": {"east": 1}},
)  # fmt: skip


def test_ranks_by_cosine_with_the_right_prompts():
    encoder, counted = Compass(), []
    found = rank(encoder, PLACES, progress=counted.append)
    assert found.queries == ("q1", "q2")
    # North and south tie for q1: the id that is last in the alphabet is first, as in trec_eval.
    assert found.documents == (("east", "south", "north"), ("north", "east", "south"))
    assert found.answers == (
        {"east": pytest.approx(np.cos(np.radians(10)))},
        {"east": pytest.approx(np.cos(np.radians(80)))},
    )
    np.testing.assert_allclose(found.scores[0], np.cos(np.radians([10, 80, 80])), atol=1e-6)
    assert encoder.asked == [("query", ["0", "90"]), ("passage", ["80", "10", "-80"])]
    assert sum(counted) == 5
    assert score(found, PLACES.qrels)["mrr@10"].tolist() == [1.0, 0.5]


def test_a_ranking_is_cut_at_its_depth():
    many = EvaluationSet("many", {"q": "0"}, {str(n): str(n / 2) for n in range(300)}, {})
    found = rank(Compass(), many)
    assert retrieval.DEPTH == len(found.documents[0]) == 100
    assert found.documents[0][:3] == ("0", "1", "2")


def test_one_document():
    single = EvaluationSet("one", {"q": "0"}, {"d": "170"}, {"q": {"d": 1}})
    assert score(rank(Compass(), single), single.qrels)["ndcg@10"].tolist() == [1.0]
