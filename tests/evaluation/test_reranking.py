import random

import numpy as np
import pytest

from finetune.evaluation import bm25
from finetune.evaluation.artifacts import lexical, read_outcome, score, write_outcome
from finetune.evaluation.reranking import rank, ranking
from finetune.evaluation.reranking import score as score_ranking
from finetune.sets import RerankingSet, half, read_set, write_set

SET = RerankingSet(
    "r", {"q1": "0", "q2": "90"},
    {"near": "10", "far": "80", "south": "-80", "west": "170"},
    {"q1": {"far": 1, "near": 0, "west": 0}, "q2": {"far": 1, "near": 1, "south": 0}},
    {"q1": ("far", "near", "west"), "q2": ("south", "far", "near")},
)  # fmt: skip


class Compass:
    dim = 2

    def encode(self, texts, prompt="passage", *, progress=None):
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_only_a_querys_own_candidates_are_ranked():
    found = rank(Compass(), SET)
    assert found.documents == (("near", "far", "west"), ("far", "near", "south"))
    metrics = score_ranking(found, SET)
    assert metrics["map"].tolist() == [0.5, 1.0] and metrics["mrr@10"].tolist() == [0.5, 1.0]
    assert found.answers[1]["near"] == pytest.approx(np.cos(np.radians(80)), abs=1e-6)


def test_average_precision_counts_answers_that_were_no_candidates():
    few = RerankingSet("f", {"q": "0"}, {"a": "0", "b": "5", "c": "9"},
                       {"q": {"b": 1, "c": 1, "gone": 1}}, {"q": ("a", "b", "c")})  # fmt: skip
    # at ranks 2 and 3 of three answers: (1/2 + 2/3) / 3
    assert score_ranking(rank(Compass(), few), few)["map"].tolist() == [pytest.approx(7 / 18)]


@pytest.mark.parametrize("seed", range(15))
def test_as_trec_eval_with_ties(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")  # of the extra `dev`
    rng = random.Random(seed)
    names = [f"d{n}" for n in range(40)]
    candidates = {f"q{n}": tuple(rng.sample(names, rng.choice([1, 2, 12, 30]))) for n in range(20)}
    qrels = {q: {name: rng.randint(0, 1) for name in found} for q, found in candidates.items()}
    for query, found in candidates.items():
        qrels[query][found[0]] = 1
    given = RerankingSet("g", dict.fromkeys(candidates, ""), dict.fromkeys(names, ""), qrels,
                         candidates)  # fmt: skip
    scores = [np.array([rng.randint(0, 4) / 4 for _ in found]) for found in candidates.values()]
    ours = score_ranking(ranking(given, scores), given)
    run = {q: dict(zip(candidates[q], values.tolist(), strict=True))
           for q, values in zip(candidates, scores, strict=True)}  # fmt: skip
    found = pytrec_eval.RelevanceEvaluator(qrels, {"map", "recip_rank"}).evaluate(run)
    np.testing.assert_allclose(ours["map"], [found[q]["map"] for q in candidates], atol=1e-6)
    ranks = [found[q]["recip_rank"] for q in candidates]
    np.testing.assert_allclose(ours["mrr@10"], [r if r > 0.0999 else 0 for r in ranks], atol=1e-6)


def test_what_each_query_got_comes_back_as_written(tmp_path):
    found = score(Compass(), SET)
    assert found.main == SET.main == "map" and found.queries == ("q1", "q2")
    assert [len(row) for row in found.scores] == [3, 3]
    write_outcome(tmp_path / "r.jsonl", found)
    again = read_outcome(tmp_path / "r.jsonl")
    assert (again.top, again.answers) == (found.top, found.answers)
    assert again.metrics["map"].tolist() == found.metrics["map"].tolist()


def test_bm25_ranks_the_candidates():
    texts = {"a": "房东不退押金", "b": "老板不发工资", "c": "离婚后财产如何分割", "d": "押金"}
    given = RerankingSet("g", {"q1": "押金房东", "q2": "？"}, texts,
                         {"q1": {"a": 1, "b": 0}, "q2": {"c": 1, "b": 0}},
                         {"q1": ("b", "a"), "q2": ("b", "c")})  # fmt: skip
    first, second = bm25.scores(given)
    assert first[1] > first[0] == 0 and second.tolist() == [0, 0]
    found = lexical(given)
    assert found.metrics["map"].tolist() == [1.0, 1.0] and found.answers == ()


def test_a_set_is_read_as_written_and_halved(tmp_path):
    write_set(tmp_path / "r", SET)
    assert read_set(tmp_path / "r") == SET
    (query,) = [key for key in SET.queries if key == "q1"]
    only = SET.only({query})
    assert list(only.corpus) == ["near", "far", "west"] and only.candidates.keys() == {"q1"}
    assert isinstance(only, RerankingSet) and half(query) in ("select", "report")
