import pytest

from finetune.evaluation.slices import english, slices
from finetune.inference.script import script_of
from finetune.records import Scored
from finetune.sets import EvaluationSet, ScoredSet


@pytest.mark.parametrize(
    ("text", "share"),
    [("房东", 0.0), ("", 0.0), ("123？", 0.0), ("ab房东", 0.5), ("iPhone 15", 1.0), ("é", 0.0)],
)
def test_share_of_latin_letters(text, share):
    assert english(text) == share


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("房东不退押金，怎么办", "simplified"),
        ("房東不退押金，怎麼辦", "traditional"),
        ("我不知道", ""),
        ("后", ""),  # OpenCC changes it, and Traditional has it too
        ("", ""),
        ("ok 123", ""),
    ],
)
def test_script(text, found):
    assert script_of(text) == found


def questions(count, query, answer, start=0, **corpus):
    """Queries that one passage each answers."""
    ids = [f"q{start + n}" for n in range(count)]
    return (
        {key: query.format(n=key) for key in ids},
        {f"d{key}": answer.format(n=key) for key in ids},
        {key: {f"d{key}": 1} for key in ids},
    )


def together(*parts):
    queries, corpus, qrels = (
        {k: v for part in parts for k, v in part[n].items()} for n in range(3)
    )
    return EvaluationSet("s", queries, corpus, qrels)


def test_slices_of_a_retrieval_set():
    each = together(
        questions(20, "短问", "短答"),
        questions(21, "这个问题说的是网络 iPhone 的长度{n}", "這個問題沒有答案，說的是長度", 20),
        questions(22, "这是一个超过三十个字的问题，" + "所以很长" * 5, "长" * 90, 41),
    )  # fmt: skip
    found = {name: len(ids) for name, ids in slices(each, 64).items()}
    assert found == {
        "length-1-10": 20, "length-11-30": 21, "length-over-30": 22,
        "english-0": 42, "english-over-20": 21,
        "crossed": 21, "simplified": 42, "beyond-window": 22,
    }  # fmt: skip
    assert slices(each, 90).keys() == found.keys() - {"beyond-window"}
    assert slices(each, 64)["crossed"] == tuple(f"q{n}" for n in range(20, 41))


def test_rare_terms_are_those_that_query_and_answer_share_and_few_passages_have():
    letters = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往"
    rare = {f"r{n}": f"{letters[n]}{letters[n - 1]}的规定" for n in range(20)}
    common = {f"c{n}": "押金的规定" for n in range(20)}
    queries = rare | common
    answers = {f"d{key}": text for key, text in queries.items()}
    each = EvaluationSet("s", queries, answers, {key: {f"d{key}": 1} for key in queries})
    assert slices(each, 512)["rare-terms"] == tuple(rare)
    # The answer does not hold what is rare in the query.
    other = EvaluationSet("s", queries, {**answers, **{f"e{key}": "别的" for key in queries}},
                          {key: {f"e{key}": 1} for key in queries})  # fmt: skip
    assert "rare-terms" not in slices(other, 512)


def test_a_slice_is_neither_tiny_nor_everything():
    def found(few, many):
        longer = questions(many, "这个问题有十几个字那么长吧", "答", few)
        return slices(together(questions(few, "短问", "答"), longer), 512)

    assert found(20, 20).keys() == {"length-1-10", "length-11-30"}
    assert found(19, 40) == {} and found(40, 19) == {} and found(60, 0) == {}


def test_slices_of_pairs():
    texts = [("短", "短"), ("长长的一句话在这里", "這句話也很長很長很長")]
    pairs = tuple(Scored(f"p{n}", *texts[n % 2], float(n % 2), "s") for n in range(60))
    found = slices(ScoredSet("s", pairs), 512)
    assert {name: len(ids) for name, ids in found.items()} == {
        "length-1-10": 30, "length-11-30": 30, "crossed": 30
    }  # fmt: skip
    assert found["crossed"][0] == "p1"
