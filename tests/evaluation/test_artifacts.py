import numpy as np
import pytest

from finetune.evaluation.artifacts import (
    Outcome,
    evaluate,
    outcome,
    read_outcome,
    score,
    write_outcome,
)
from finetune.evaluation.remembered import Remembering
from finetune.evaluation.retrieval import METRICS, Ranking
from finetune.records import Scored
from finetune.sets import EvaluationSet, ScoredSet


class Lengths:
    """A text's vector turns the further the longer it is; counts what it is asked."""

    dim = 2

    def __init__(self):
        self.asked = []

    def encode(self, texts, prompt="passage", *, progress=None):
        self.asked.append((prompt, len(texts)))
        if progress is not None:
            progress(len(texts))
        angles = np.array([len(text) ** 2 / 200 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


CORPUS = {f"d{n}": "文" * n for n in range(1, 13)}
SIMPLIFIED = EvaluationSet(
    "s", {"q3": "问问问", "q7": "问" * 7, "q9": "问" * 9}, CORPUS,
    {"q3": {"d3": 1}, "q7": {"d8": 1}, "q9": {"d9": 0}},
)  # fmt: skip
TRADITIONAL = EvaluationSet("t", {"q3": "問問問"}, dict(CORPUS), {"q3": {"d1": 1}})
OTHER = EvaluationSet("o", {"q3": "问问问"}, {"d3": "文文文"}, {"q3": {"d3": 1}})


def test_what_each_query_got(tmp_path):
    evaluate("tuned", Lengths(), [SIMPLIFIED], tmp_path)
    found = read_outcome(tmp_path / "tuned/s.jsonl")
    assert found.queries == ("q3", "q7")  # q9 has no relevant document
    # 7 characters: 6 are nearer than 8 (36, 49, 64)
    np.testing.assert_allclose(found.metrics["mrr@10"], [1.0, 1 / 3])
    np.testing.assert_allclose(found.metrics["ndcg@10"], [1.0, 0.5])
    np.testing.assert_allclose(found.metrics["recall@100"], [1.0, 1.0])
    assert found.top[0][0] == "d3" and len(found.top[0]) == 10
    assert found.top[1][:3] == ("d7", "d6", "d8")
    cosines = np.cos(np.array([0, 49 - 36, 64 - 49]) / 200)
    assert found.scores[1][:3] == pytest.approx(cosines)
    assert found.answers == ({"d3": pytest.approx(1)}, {"d8": pytest.approx(cosines[2])})


def test_a_corpus_that_sets_share_is_encoded_once(tmp_path):
    encoder = Lengths()
    evaluate("tuned", Remembering(encoder), [SIMPLIFIED, TRADITIONAL, OTHER], tmp_path)
    assert [asked for asked in encoder.asked if asked[0] == "passage"] == [("passage", 12)]
    assert sorted(p.name for p in (tmp_path / "tuned").iterdir()) == [
        "o.jsonl", "s.jsonl", "t.jsonl"
    ]  # fmt: skip
    assert read_outcome(tmp_path / "tuned/t.jsonl").metrics["ndcg@10"][0] < 1


def test_an_outcome_comes_back_as_written(tmp_path):
    written = Outcome(
        ("q-一", "q-二"), {metric: np.array([0.1, 1 / 3]) for metric in METRICS},
        (("a", "b"), ()), (), ((0.5, 0.25), ()), ({"b": 0.25}, {}),
    )  # fmt: skip
    write_outcome(tmp_path / "a.jsonl", written)
    found = read_outcome(tmp_path / "a.jsonl")
    assert (found.queries, found.top) == (written.queries, written.top)
    assert (found.scores, found.answers) == (written.scores, written.answers)
    for metric in METRICS:
        assert found.metrics[metric].tolist() == written.metrics[metric].tolist()


def test_top_documents_belong_to_their_query():
    ranking = Ranking(("a", "b", "c"), (("1",), ("2",), ("3",)), np.zeros((3, 1), np.float32))
    found = outcome(ranking, {"a": {"1": 1}, "c": {"2": 1}})
    assert found.queries == ("a", "c") and found.top == (("1",), ("3",))
    assert found.metrics["ndcg@10"].tolist() == [1.0, 0.0]


# Cosines of the pairs: cos of (9 - 4) / 200, (36 - 4) / 200, (144 - 4) / 200, all apart.
SCORES = ScoredSet("sts", (
    Scored("p1", "文文", "文文文", 5.0, "s"),
    Scored("p2", "文文", "文" * 6, 1.0, "s"),
    Scored("p3", "文文", "文" * 12, 3.0, "s"),
))  # fmt: skip


def test_what_each_pair_got(tmp_path):
    encoder = Lengths()
    evaluate("tuned", encoder, [SIMPLIFIED, SCORES], tmp_path)
    found = read_outcome(tmp_path / "tuned/sts.jsonl")
    assert found.queries == ("p1", "p2", "p3") and found.main == SCORES.main == "spearman"
    assert found.cosines == pytest.approx(np.cos([5 / 200, 32 / 200, 140 / 200]))
    # ranks 3, 2, 1 by cosine, 3, 1, 2 by score: 1 - 6 x 2 / (3 x 8)
    assert found.metrics["spearman"].mean() == pytest.approx(0.5)
    assert list(found.metrics) == ["spearman"] and found.top == ()
    assert read_outcome(tmp_path / "tuned/s.jsonl").main == SIMPLIFIED.main
    assert encoder.asked[-2:] == [("query", 3), ("query", 3)]


def test_labelled_pairs_get_both_metrics():
    labelled = ScoredSet("l", tuple(
        Scored(pair.id, pair.a, pair.b, float(pair.score > 2), "s") for pair in SCORES.pairs
    ))  # fmt: skip
    found = score(Lengths(), labelled)
    # alike: the first and the last of three by cosine
    assert found.metrics["ap"].mean() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.main == "spearman"


def test_an_outcome_of_pairs_comes_back_as_written(tmp_path):
    written = score(Lengths(), SCORES)
    write_outcome(tmp_path / "a.jsonl", written)
    found = read_outcome(tmp_path / "a.jsonl")
    assert (found.queries, found.top, found.cosines) == (written.queries, (), written.cosines)
    assert found.metrics["spearman"].tolist() == written.metrics["spearman"].tolist()
