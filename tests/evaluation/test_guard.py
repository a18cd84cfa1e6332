import pytest

from finetune.evaluation import bm25
from finetune.evaluation.guard import guard_texts, pooled, sampled
from finetune.records import Scored
from finetune.sets import EvaluationSet, ScoredSet

TOPICS = "押金 工资 离婚 商品 抚养 学校 医院 合同".split()


def select(queries=200, documents=2000):
    corpus = {f"d{n}": f"{TOPICS[n % 8]}规定第{n}条" for n in range(documents)}
    texts = {f"q{n}": f"{TOPICS[n % 8]}第{n}怎么办" for n in range(queries)}
    # Golds that BM25 does not rank high.
    qrels = {f"q{n}": {f"d{documents - 1 - n}": 1} for n in range(queries)}
    return EvaluationSet("dev", texts, corpus, qrels)


def golds(small):
    return {key for row in small.qrels.values() for key, score in row.items() if score > 0}


@pytest.mark.parametrize("max_texts", [0, 300, 600, 5000])
def test_golds_are_never_left_out_and_the_budget_is_kept(max_texts):
    whole = select()
    small = pooled(whole, max_texts=max_texts, seed=0)
    assert golds(small) <= set(small.corpus) <= set(whole.corpus)
    assert set(small.qrels) == set(small.queries) <= set(whole.queries)
    assert len(small.queries) + len(small.corpus) == min(max(300, max_texts), 2200)
    assert len(small.queries) >= 10
    assert {key: whole.corpus[key] for key in small.corpus} == small.corpus


def test_distractors_are_those_of_bm25_and_as_many_drawn_ones():
    whole = select(50)
    small = pooled(whole, max_texts=600, seed=0)
    assert small.queries == whole.queries and small.qrels == whole.qrels
    assert len(small.corpus) == 550
    lexical = [set(row[:5]) for row in bm25.rank(whole, 10).documents]
    others = set(small.corpus) - golds(small)
    found = set().union(*lexical) - golds(small)
    assert found <= others and len(found) > 200
    drawn = sorted(int(key[1:]) for key in others - found)
    assert len(drawn) > 200 and drawn[0] < 100 and drawn[-1] > 1850  # from everywhere


def test_a_large_budget_takes_the_whole_corpus():
    whole = select(20)
    assert pooled(whole, max_texts=10_000, seed=0) == whole


def test_the_seed_chooses_the_queries_in_their_order_and_the_documents():
    whole = select()
    one, same, other = (pooled(whole, max_texts=0, seed=seed) for seed in (0, 0, 1))
    assert one == same and one.queries != other.queries and one.corpus != other.corpus
    assert len(one.queries) == 50  # a sixth of 300
    assert list(one.queries) == sorted(one.queries, key=lambda key: int(key[1:]))


def test_a_tiny_set_stays_whole():
    whole = select(3, 5)
    assert pooled(whole, max_texts=0, seed=0) == whole


def test_all_scorings_cost_a_share_of_the_training():
    # 1,000 texts trained once cost 3,000; a tenth of that for 5 checkpoints and the base
    assert guard_texts(1000, 0.1, 1.0, 5) == 50
    assert guard_texts(1000, 0.1, 2.0, 3) == 150


@pytest.mark.parametrize(("texts", "pairs"), [(1, 150), (300, 150), (700, 350), (99999, 500)])
def test_as_many_pairs_as_may_be_encoded(texts, pairs):
    rows = tuple(Scored(f"p-{n}", f"问{n}", f"答{n}", n % 3, "s") for n in range(500))
    found, same, other = (
        sampled(ScoredSet("dev", rows), max_texts=texts, seed=seed) for seed in (0, 0, 1)
    )
    assert len(found.pairs) == pairs and found == same and found.name == "dev"
    assert list(found.pairs) == [row for row in rows if row in found.pairs]
    assert (found == other) == (pairs == 500)
