import pytest

from finetune.evaluation.guard import guard_texts, pooled, sampled
from finetune.records import Scored
from finetune.sets import EvaluationSet, ScoredSet

TOPICS = "押金 工资 离婚 商品 抚养 学校 医院 合同".split()


def select(queries=200, documents=2000):
    corpus = {f"d{n}": f"{TOPICS[n % 8]}规定第{n}条" for n in range(documents)}
    texts = {f"q{n}": f"{TOPICS[n % 8]}第{n}怎么办" for n in range(queries)}
    # Golds that neither BM25 nor the base ranks high.
    qrels = {f"q{n}": {f"d{documents - 1 - n}": 1} for n in range(queries)}
    base_top = [[f"d{1000 + 10 * n + k}" for k in range(10)] for n in range(min(queries, 100))]
    base_top += [["d0"] * 10] * (queries - len(base_top))
    return EvaluationSet("dev", texts, corpus, qrels), base_top


def golds(small):
    return {key for row in small.qrels.values() for key, score in row.items() if score > 0}


@pytest.mark.parametrize("max_texts", [0, 300, 600, 5000])
def test_golds_are_never_left_out_and_the_budget_is_kept(max_texts):
    whole, base_top = select()
    small = pooled(whole, base_top, max_texts=max_texts, seed=0)
    assert golds(small) <= set(small.corpus) <= set(whole.corpus)
    assert set(small.qrels) == set(small.queries) <= set(whole.queries)
    assert len(small.queries) + len(small.corpus) <= max(300, max_texts)
    assert len(small.queries) >= 10
    assert {key: whole.corpus[key] for key in small.corpus} == small.corpus


def test_a_large_budget_keeps_every_query_and_both_top_tens():
    whole, base_top = select(20)
    small = pooled(whole, base_top, max_texts=10_000, seed=0)
    assert small.queries == whole.queries and small.qrels == whole.qrels
    assert {key for row in base_top for key in row} <= set(small.corpus)
    # BM25 finds the article of the same number and topic, which the base did not.
    assert len(small.corpus) > len({key for row in base_top for key in row}) + len(golds(small))


def test_what_ranks_first_goes_in_first():
    whole, base_top = select(50)
    small = pooled(whole, base_top, max_texts=300, seed=0)
    kept = [int(query[1:]) for query in small.queries]
    depths = [sum(base_top[n][k] in small.corpus for n in kept) for k in range(10)]
    # Golds and BM25's first ones take the rest of the 300.
    assert depths[0] == len(kept) == 50 and depths[1] > 40 and max(depths[2:]) < 10


def test_the_seed_chooses_the_queries_in_their_order():
    whole, base_top = select()
    one, same, other = (pooled(whole, base_top, max_texts=0, seed=seed) for seed in (0, 0, 1))
    assert one == same and one.queries != other.queries
    assert len(one.queries) == 50  # a sixth of 300
    assert list(one.queries) == sorted(one.queries, key=lambda key: int(key[1:]))


def test_a_tiny_set_stays_whole():
    whole, base_top = select(3, 5)
    small = pooled(whole, [row[:2] for row in base_top], max_texts=0, seed=0)
    assert small.queries == whole.queries and golds(small) <= set(small.corpus)


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
