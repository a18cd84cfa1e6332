"""Copies of rows: which are made, what they share with their originals, and which are left out."""

import dataclasses
from collections import Counter

import pytest

from finetune.config.choices import Leak
from finetune.config.compose import compose
from finetune.data.augment import COLLISION, UNCHANGED, augment
from finetune.data.leaks import LEAK, NEAR_LEAK
from finetune.data.typos import CHANGES
from finetune.disk import number
from finetune.mining import known_answers
from finetune.records import Mined, Pair, Scored, normalised
from finetune.sets import EvaluationSet
from finetune.training.mixing import Part, examples

NONE = compose(["recipes=full"]).augment
ROWS = [
    Mined(f"r{n}", f"房东不退押金应该怎么办{n}", f"合同终止后应当退还{n}", (f"劳动报酬{n}",),
          (0.9, 0.5), "s") for n in range(200)
]  # fmt: skip


LONG = "租房合同到期房东不退还押金该怎么要回来"


def settings(share=1.0, **weights):
    return dataclasses.replace(NONE, share=share, **weights)


def cut(text, rng):
    """Leave the first character out."""
    return text[1:]


def augmented(rows, own, changes=None, known=(), sets=(), seed=1, leak=Leak.default):
    changes = changes or {"deletion": cut}
    return augment(rows, known, own, changes, sets, seed, leak=leak, near=0.7)


def asked(*queries):
    names = {f"q{n}": query for n, query in enumerate(queries)}
    return EvaluationSet("law", names, {"d": "篇"}, {name: {"d": 1} for name in names})


def test_a_copy_has_the_answers_of_its_original():
    found = augmented(ROWS[:2], settings(deletion=1))
    assert [row.id for row in found.rows] == ["r0", "r0+copy", "r1", "r1+copy"]
    row, copy = found.rows[:2]
    assert row == ROWS[0]
    assert copy == dataclasses.replace(
        row, id="r0+copy", query="东不退押金应该怎么办0", source="s+deletion"
    )
    assert found.counts == {
        "rows": 2, "copies": 2, "by kind": {"deletion": 2}, UNCHANGED: 0, "dropped": {},
    }  # fmt: skip


def ids(found):
    return {row.id for row in found.rows if row.id.endswith("+copy")}


def test_seed_and_row_decide_and_a_larger_share_holds_a_smaller():
    kinds = {"homophone": 1, "shape": 1, "deletion": 2}
    half = augmented(ROWS, settings(0.5, **kinds), CHANGES)
    assert half == augmented(ROWS, settings(0.5, **kinds), CHANGES)
    assert ids(half) != ids(augmented(ROWS, settings(0.5, **kinds), CHANGES, seed=2))
    assert 70 < len(ids(half)) < 130  # 100, and 30 are four standard deviations
    assert ids(augmented(ROWS, settings(0.2, **kinds), CHANGES)) < ids(half)
    # Neither what stands beside a row, nor its place, matters to it.
    last = {row.id: row for row in augmented(ROWS[::-1], settings(0.5, **kinds), CHANGES).rows}
    assert last == {row.id: row for row in half.rows}


def test_kinds_are_drawn_by_weight_and_the_next_one_tried_where_none_fits():
    both = {"shape": lambda text, rng: text, "homophone": lambda text, rng: text + "啊"}
    found = augmented(ROWS, settings(homophone=1, deletion=3), {**both, "deletion": cut})
    kinds = found.counts["by kind"]
    assert kinds.keys() == {"homophone", "deletion"} and 30 < kinds["homophone"] < 70
    assert Counter(row.source for row in found.rows) == {
        "s": 200, "s+homophone": kinds["homophone"], "s+deletion": kinds["deletion"],
    }  # fmt: skip
    never_fits = augmented(ROWS, settings(shape=100, homophone=1), both)
    assert never_fits.counts["by kind"] == {"homophone": 200}
    alone = augmented(ROWS, settings(shape=1), both)
    assert alone.rows == ROWS and alone.counts[UNCHANGED] == 200


def test_a_copy_that_an_evaluation_set_asks_is_left_out():
    rows = [Pair("1", "啊房东不退押金", "答", "s"), Pair("2", f"那{LONG}", "答二", "s"),
            Pair("3", "我想问工资", "答三", "s")]  # fmt: skip
    sets = [asked("房東不退押金？", f"{LONG}呢")]  # one in the other script
    found = augmented(rows, settings(deletion=1), sets=sets)
    assert {row.reason for row in found.dropped} == {LEAK, NEAR_LEAK}
    assert found.counts["dropped"] == {LEAK: 1, NEAR_LEAK: 1}
    assert [row.id for row in found.rows] == ["1", "2", "3", "3+copy"]
    assert found.dropped[0].text == "房东不退押金"
    assert found.dropped[0].collided_with == "law: query q0"
    assert not augmented(rows, settings(deletion=1), sets=sets, leak=Leak.off).dropped


def test_a_copy_that_asks_what_another_row_asks_is_left_out():
    rows = [Pair("1", "啊房东不退押金", "答", "s"), Pair("2", "房东不退押金！", "答二", "s")]
    found = augmented(rows, settings(deletion=1))
    assert [row.id for row in found.rows] == ["1", "2", "2+copy"]
    (dropped,) = found.dropped
    assert (dropped.reason, dropped.collided_with) == (COLLISION, "2")
    # Marks alone make no other question: a copy in them is not its original's rival.
    marks = {"punctuation": lambda text, rng: text + "？"}
    assert len(ids(augmented(rows, settings(punctuation=1), marks))) == 2


def test_what_answers_the_original_is_no_negative_of_its_copy(tmp_path):
    rows = [Pair("1", "甲乙", "答一", "s"), Pair("2", "甲乙", "答二", "s"),
            Pair("3", "丙丁", "答三", "s"), Pair("4", "戊己", "甲乙", "s")]  # fmt: skip
    known = [Pair("5", "甲乙！", "答五", "s")]
    found = augmented(rows, settings(deletion=1), known=known)
    known_numbers = known_answers([*found.rows, *found.known])
    texts = {number(text): text for row in [*found.rows, *found.known]
             for text in map(normalised, (row.query, row.positive))}  # fmt: skip

    def answers(text):
        return {texts[key] for key in known_numbers[number(text)].tolist()}

    everything = {"甲乙", "答一", "答二", "答五", "戊己"}
    assert answers("乙") == everything | {"乙"}
    assert answers("甲乙") == everything | {"乙", "己"}  # 己 is the copy of 戊己
    assert found.known[0] == known[0]
    # So it is in training: no batch holds another answer of a row's query.
    prompts = {"query": "", "passage": ""}
    fed = examples([Part("domain", found.rows, {})], found.known, prompts, 2, 0, tmp_path)
    for epoch in range(20):
        fed.batches.set_epoch(epoch)
        for batch in fed.batches:
            for one in batch:
                others = {normalised(found.rows[each].positive) for each in batch if each != one}
                assert not others & answers(normalised(found.rows[one].query))


def test_of_scored_pairs_the_first_text_is_changed_and_the_score_stays():
    rows = [Scored("1", "房东不退押金", "押金不退", 0.8, "s")]
    found = augmented(rows, settings(deletion=1))
    assert found.rows == [
        rows[0], Scored("1+copy", "东不退押金", "押金不退", 0.8, "s+deletion"),
    ]  # fmt: skip
    assert found.known == []


@pytest.mark.parametrize("rows", [[], ROWS[:3]])
def test_no_share_is_no_copy(rows):
    found = augmented(rows, settings(0.0, deletion=1))
    assert list(found.rows) == rows and found.known == [] and found.counts["copies"] == 0
