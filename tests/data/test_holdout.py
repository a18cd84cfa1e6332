import pytest

from finetune.data.folding import folded
from finetune.data.holdout import hold_out
from finetune.errors import UserError
from finetune.records import Pair, Scored
from finetune.sets import EvaluationSet, ScoredSet

PAIRS = [Pair(f"{n}", f"第{n}个问题", f"第{n % 60}个回答", "s") for n in range(100)]


def test_no_query_is_on_both_sides_and_no_pair_is_lost():
    kept, held = hold_out(PAIRS, None, 0)
    assert isinstance(held, EvaluationSet) and len(held.queries) == 20 and len(kept) == 80
    assert {pair.query for pair in kept}.isdisjoint(held.queries.values())
    assert {*held.queries.values(), *(pair.query for pair in kept)} == {p.query for p in PAIRS}


def test_the_corpus_is_every_answer_and_what_answers_stands_in_the_qrels():
    _, held = hold_out(PAIRS, 30, 0)
    assert isinstance(held, EvaluationSet)
    assert sorted(held.corpus.values()) == sorted({pair.positive for pair in PAIRS})
    answers = {pair.query: pair.positive for pair in PAIRS}
    for query, relevance in held.qrels.items():
        assert [held.corpus[key] for key in relevance] == [answers[held.queries[query]]]


def test_a_query_leaves_with_all_its_answers_however_it_is_written():
    again = [Pair("x", "第3个問題？", "另一个回答", "s"), Pair("y", "第3个问题 ", "再一个", "s")]
    rows = [*PAIRS, *again]
    for seed in range(8):
        kept, held = hold_out(rows, 50, seed)
        assert isinstance(held, EvaluationSet)
        if folded("第3个问题") in map(folded, held.queries.values()):
            break
    (key,) = [key for key, text in held.queries.items() if folded(text) == folded("第3个问题")]
    assert {held.corpus[each] for each in held.qrels[key]} == {"第3个回答", "另一个回答", "再一个"}
    assert not {"3", "x", "y"} & {pair.id for pair in kept}


def test_the_draw_is_the_seeds():
    _, one = hold_out(PAIRS, 30, 1)
    assert hold_out(PAIRS, 30, 1)[1] == one != hold_out(PAIRS, 30, 2)[1]


def test_scored_pairs_are_held_out_too():
    rows = [Scored(f"{n}", f"第{n}句", f"第{n}句话", n % 2, "s") for n in range(100)]
    kept, held = hold_out(rows, 30, 0)
    assert isinstance(held, ScoredSet) and len(held.pairs) == 30 and len(kept) == 70


@pytest.mark.parametrize(
    ("pairs", "queries", "told"),
    [
        (PAIRS, 5, "100 different queries; --queries 5 is too few to measure with; hold out at"),
        (PAIRS, 100, "--queries 100 leaves none to train on; hold out at least 20"),
        (PAIRS[:80], None, r"a.csv: asks 80 .*; a fifth, 16, is too few .* \(--queries 20\), or"),
        (PAIRS[:20], None, "a fifth, 4, is too few to measure with; write an evaluation set by"),
    ],
)
def test_too_few_queries_are_told(pairs, queries, told):
    with pytest.raises(UserError, match=told):
        hold_out(pairs, queries, 0, origin="a.csv")
