import numpy as np

from finetune.evaluation.artifacts import Outcome, evaluate, outcome, read_outcome, write_outcome
from finetune.evaluation.retrieval import METRICS, Ranking
from finetune.records import EvaluationSet


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


def test_a_corpus_that_sets_share_is_encoded_once(tmp_path):
    encoder = Lengths()
    evaluate("tuned", encoder, [SIMPLIFIED, TRADITIONAL, OTHER], tmp_path)
    assert [asked for asked in encoder.asked if asked[0] == "passage"] == [
        ("passage", 12), ("passage", 1)
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "tuned").iterdir()) == [
        "o.jsonl", "s.jsonl", "t.jsonl"
    ]  # fmt: skip
    assert read_outcome(tmp_path / "tuned/t.jsonl").metrics["ndcg@10"][0] < 1


def test_an_outcome_comes_back_as_written(tmp_path):
    written = Outcome(
        ("q-一", "q-二"), {metric: np.array([0.1, 1 / 3]) for metric in METRICS},
        (("a", "b"), ()),
    )  # fmt: skip
    write_outcome(tmp_path / "a.jsonl", written)
    found = read_outcome(tmp_path / "a.jsonl")
    assert (found.queries, found.top) == (written.queries, written.top)
    for metric in METRICS:
        assert found.metrics[metric].tolist() == written.metrics[metric].tolist()


def test_top_documents_belong_to_their_query():
    ranking = Ranking(("a", "b", "c"), (("1",), ("2",), ("3",)), np.zeros((3, 1), np.float32))
    found = outcome(ranking, {"a": {"1": 1}, "c": {"2": 1}})
    assert found.queries == ("a", "c") and found.top == (("1",), ("3",))
    assert found.metrics["ndcg@10"].tolist() == [1.0, 0.0]
