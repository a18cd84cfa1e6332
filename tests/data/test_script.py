import dataclasses

import pytest

from finetune.config.compose import compose
from finetune.data.script import (
    NO_RETURN,
    Scripts,
    asked_twice,
    convert_set,
    in_scripts,
    rewrite,
)
from finetune.disk import number
from finetune.inference.script import is_traditional
from finetune.mining import known_answers
from finetune.records import Mined, Pair, Scored
from finetune.sets import EvaluationSet, ScoredSet

OPENCC = compose(["recipes=full"]).opencc
ROWS = [
    Mined(f"r{n}", f"房东不退押金怎么办{n}", f"合同终止后应当退还{n}", (f"劳动报酬{n}",),
          (0.9, 0.5), "s") for n in range(100)
]  # fmt: skip
# The way there makes 待著 of 呆着, another word.
BROKEN = Pair("b", "老人呆着", "答案在这里", "s")


def scripts(script="both", **changes):
    return Scripts.of(script, dataclasses.replace(OPENCC, **changes), None)


def rewritten(rows, script, known=(), crossed=0.0, encode="keep", seed=1, **changes):
    return rewrite(rows, known, script, scripts(script, **changes), crossed=crossed,
                   encode=encode, seed=seed)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "traditional"),
    [("房东", False), ("房東", True), ("我们", False), ("", False), ("abc", False),
     ("這這这", True), ("天下", False)],
)  # fmt: skip
def test_a_text_is_in_the_script_that_most_of_its_characters_are_of(text, traditional):
    assert is_traditional(text) is traditional


@pytest.mark.parametrize(
    ("script", "traditional"),
    [
        ("s2t", "衛生間裏的軟件"),
        ("s2tw", "衛生間裡的軟件"),
        ("s2twp", "衛生間裡的軟體"),
        ("s2hk", "衞生間裏的軟件"),
        ("t2s", "衛生間裡的軟件"),
    ],
)
def test_all_texts_of_a_row_are_converted_alike(script, traditional):
    given = ("卫生间里的软件", "合同终止后应当退还", "劳动报酬")
    made = (traditional, "合同終止後應當退還", "勞動報酬")
    if script == "t2s":
        given, made = made, given
    row = Mined("r0", given[0], given[1], given[2:], (0.9, 0.5), "s")
    result = rewritten([row], script)
    (row,) = result.rows
    assert (row.query, row.positive, *row.negatives) == made
    assert (row.id, row.scores, row.source) == ("r0", (0.9, 0.5), f"s+{script}")
    assert result.counts == {"rows": 1, "converted": 1, "crossed": 0, "unchanged": 0, NO_RETURN: 0}


def test_crossed_rows_have_a_converted_query_alone():
    result = rewritten(ROWS, "s2tw", crossed=0.3)
    crossed = [row for row in result.rows if row.source == "s+s2tw-crossed"]
    assert len(crossed) == result.counts["crossed"] and 15 < len(crossed) < 45
    for row in crossed:
        assert is_traditional(row.query)
        assert not is_traditional(row.positive, *row.negatives)


def test_the_rows_that_are_mixed_in_follow_from_seed_and_id_alone():
    one = rewritten(ROWS, "mix:0.5").rows
    assert 35 < sum(is_traditional(row.query) for row in one) < 65
    assert rewritten(ROWS, "mix:0.5").rows == one
    assert rewritten(ROWS[40:60], "mix:0.5").rows == one[40:60]
    assert rewritten(ROWS, "mix:0.5", seed=2).rows != one
    # A larger share holds the rows of a smaller one.
    more = rewritten(ROWS, "mix:0.7").rows
    assert all(b == a for a, b in zip(one, more, strict=True) if is_traditional(a.query))
    assert all(is_traditional(row.query) for row in rewritten(ROWS, "mix:1").rows)


def test_a_copy_goes_into_the_script_of_its_original():
    copies = [dataclasses.replace(row, id=f"{row.id}+copy") for row in ROWS]
    found = rewritten([*ROWS, *copies], "mix:0.5", crossed=0.3).rows
    assert [row.source for row in found[:100]] == [row.source for row in found[100:]]


def test_traditional_rows_go_the_other_way():
    row = Pair("t", "房東不退押金", "應當退還", "s")
    (mixed,) = rewritten([row], "mix:1").rows
    assert (mixed.query, mixed.source) == ("房东不退押金", "s+tw2s")
    assert [each.query for each in rewritten([row], "both").rows] == [
        "房東不退押金",
        "房东不退押金",
    ]


def test_both_keeps_each_row_beside_its_counterpart():
    result = rewritten(ROWS[:2], "both")
    assert [row.id for row in result.rows] == ["r0", "r0+script", "r1", "r1+script"]
    assert result.rows[0] == ROWS[0] and result.rows[1].query == "房東不退押金怎麼辦0"


@pytest.mark.parametrize("script", ["both", "mix:0.5"])
def test_an_answer_in_the_other_script_is_no_negative(script):
    known = [Pair("k", "房东不退押金怎么办0", "另一个回答", "s")]
    result = rewritten(ROWS[:1], script, known)
    answers = known_answers([*result.rows, *result.known])
    wanted = {"合同终止后应当退还0", "合同終止後應當退還0", "另一个回答", "另一個回答"}
    for query in ("房东不退押金怎么办0", "房東不退押金怎麼辦0"):
        assert set(map(number, wanted)) <= set(answers[number(query)].tolist())


def test_rows_that_do_not_come_back_stay_as_they_are_and_are_told():
    for script in ("both", "mix:1"):
        result = rewritten([BROKEN], script)
        assert list(result.rows) == [BROKEN]
        assert result.counts[NO_RETURN] == 1 and result.counts["converted"] == 0
        assert list(result.lost) == [
            {"id": "b", "reason": NO_RETURN, "text": "老人呆着", "back": "老人待着"}
        ]  # fmt: skip
    # Where all is converted nothing is paired, so that it only counts; it is not crossed.
    result = rewritten([BROKEN], "s2tw", crossed=1.0)
    assert (result.rows[0].query, result.rows[0].positive) == ("老人待著", "答案在這裡")
    assert (result.counts[NO_RETURN], result.counts["crossed"]) == (1, 0)


@pytest.mark.parametrize("text", ["台灣", "臺灣的占用", "他裏面穿着衣服", "這个问题"])
def test_another_spelling_of_the_same_words_comes_back(text):
    for script in ("both", "mix:1"):
        counts = rewritten([Pair("v", text, "答案", "s")], script).counts
        assert (counts[NO_RETURN], counts["converted"]) == (0, 1)


def test_taiwans_words_come_back_as_its_own():
    row = Pair("w", "软件", "鼠标", "s")
    (other,) = rewritten([row], "s2twp").rows
    assert (other.query, other.positive) == ("軟體", "滑鼠")
    assert rewritten([row], "mix:1", traditional="s2twp").counts[NO_RETURN] == 0


def test_what_does_not_change_is_counted_and_not_doubled():
    result = rewritten([Pair("u", "你好", "天下", "s")], "both")
    assert [row.id for row in result.rows] == ["u"] and result.counts["unchanged"] == 1
    assert result.known == []


def test_training_sees_what_the_encoder_will_make_of_texts():
    row = Pair("t", "房東", "應當退還", "s")
    result = rewritten([row], "keep", [Pair("k", "房東", "天長", "s")], encode="t2s")
    assert list(result.rows) == [Pair("t", "房东", "应当退还", "s")]
    assert [pair.positive for pair in result.known] == ["天长"]
    (mixed,) = rewritten([row], "mix:1", encode="t2s").rows
    assert mixed.query == "房東"  # of a row that the encoder would have made Simplified


def test_scored_pairs():
    row = Scored("s", "房东", "老师", 1.0, "x")
    (other,) = rewritten([row], "s2tw").rows
    assert (other.a, other.b, other.score) == ("房東", "老師", 1.0)
    (other,) = rewritten([row], "s2tw", crossed=1.0).rows
    assert (other.a, other.b) == ("房東", "老师")


def test_protected_words_and_a_dictionary_hold_on_the_way_back_too(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("软件\t軟體\n", encoding="utf-8")
    opencc = dataclasses.replace(OPENCC, protect=["东里"])
    there = Scripts.of("both", opencc, path)
    assert there.to_traditional.convert("东里的软件书") == "东里的軟體書"
    assert there.to_traditional.returns("东里的软件书")
    path.write_text("劳动合同法\t勞工法\n", encoding="utf-8")
    opencc = dataclasses.replace(OPENCC, protect=["劳动合同法"])
    both = Scripts.of("both", opencc, path)
    assert both.to_traditional.convert("劳动合同法") == "劳动合同法"
    assert both.to_simplified.convert("勞工法") == "劳工法" and both.to_simplified.returns("勞工法")
    path.write_text("軟體\t软件\n", encoding="utf-8")  # of t2s: Traditional first
    assert Scripts.of("t2s", opencc, path).to_simplified.convert("軟體書") == "软件书"


def retrieval(queries, corpus):
    return EvaluationSet("dev", queries, corpus, {key: {"d": 1} for key in queries})


def test_the_versions_of_a_set():
    given = retrieval({"q": "房东不退押金"}, {"d": "应当退还", "e": "天下"})
    crossed, whole = in_scripts(given, scripts())
    assert (crossed.name, whole.name) == ("dev+crossed", "dev+traditional")
    assert crossed.queries == whole.queries == {"q": "房東不退押金"}
    assert crossed.corpus is given.corpus
    assert whole.corpus == {"d": "應當退還", "e": "天下"} and whole.qrels == given.qrels
    (_, back) = in_scripts(dataclasses.replace(whole, name="t"), scripts())
    assert (back.name, back.corpus) == ("t+simplified", given.corpus)


@pytest.mark.parametrize(
    ("traditional", "names"),
    [
        (1, ["dev+crossed", "dev+traditional"]),  # of 20, which is no more than others have
        (8, ["dev+crossed", "dev+traditional", "dev+simplified"]),
        (12, ["dev+crossed", "dev+simplified", "dev+traditional"]),
    ],
)
def test_a_mixed_set_is_put_into_its_own_script_too(traditional, names):
    queries = {f"q{n}": "房東" if n < traditional else "房东" for n in range(20)}
    given = retrieval(queries, {f"d{n}": text for n, text in enumerate(queries.values())})
    found = in_scripts(given, scripts())
    assert [each.name for each in found] == names
    for each in found[1:]:
        (text,) = {*each.queries.values(), *each.corpus.values()}
        assert text == ("房東" if each.name.endswith("traditional") else "房东")
    if len(found) == 3:
        crossed, other, own = found
        assert (crossed.queries, crossed.corpus) == (other.queries, own.corpus)


@pytest.mark.parametrize(
    "each",
    [retrieval({"q": "天下"}, {"d": "你好"}), retrieval({"q": "房東"}, {"d": "应当退还"})],
    ids=["the same in both", "crossed already"],
)
def test_sets_of_which_there_are_no_versions(each):
    assert in_scripts(each, scripts()) == []


def test_versions_of_scored_sets():
    given = ScoredSet("sts", (Scored("1", "房东", "老师", 1.0, "x"),))
    crossed, whole = in_scripts(given, scripts())
    assert (crossed.pairs[0].a, crossed.pairs[0].b) == ("房東", "老师")
    assert (whole.pairs[0].a, whole.pairs[0].b) == ("房東", "老師")
    twice = asked_twice(given, scripts())
    assert [(pair.id, pair.b) for pair in twice.pairs] == [("1", "老师"), ("1+script", "老師")]
    assert convert_set(given, scripts().to_traditional.convert).pairs == whole.pairs


def test_questions_are_asked_twice_of_the_passages_as_they_are():
    given = retrieval({"q": "房东", "u": "天下", "b": "老人呆着"}, {"d": "应当退还"})
    twice = asked_twice(given, scripts())
    assert twice.queries == {**given.queries, "q+script": "房東"}
    assert twice.qrels["q+script"] == {"d": 1} and twice.corpus == given.corpus
