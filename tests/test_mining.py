import numpy as np
import pytest

from finetune import mining
from finetune.disk import number
from finetune.judging import Filter
from finetune.mining import Pool, known_answers, mine, summary, usual
from finetune.records import Mined, Pair, normalised
from finetune.training.negatives import without_known


def at(*degrees):
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


PAIR = Pair("1", "押金怎么退", "押金应当退还", "law")
TEXTS = ["押金应当退还", "押金，应当退还！", "租金不退", "工资", "离婚", "商品"]
# The query lies at 0°, its positive at 30°: cos 30° = .8660. The five far texts bring the pool's
# mean cosine, what chance would score, to 0, so that with a margin of 5 % a negative may score at
# most .8227, which is 34.6°.
POOL = Pool([*TEXTS, *(f"远{n}" for n in range(5))], at(30, 31, 33, 36, 50, 90, *[143.39] * 5))


def one(**changes):
    settings = {"negatives": 2, "candidates": 6, "relative_margin": 0.05} | changes
    ((mined, audit),) = mine([PAIR], at(0), at(30), POOL, **settings)
    return mined, audit


def test_negatives_are_the_nearest_below_the_margin():
    mined, audit = one()
    assert mined == Mined("1", "押金怎么退", "押金应当退还", ("工资", "离婚"), mined.scores, "law")
    np.testing.assert_allclose(mined.scores, np.cos(np.radians([30, 36, 50])), atol=1e-6)
    assert audit.positive_score == pytest.approx(0.8660, abs=1e-4)


def test_a_positive_under_another_name_of_its_law_is_no_negative():
    article = "第八条：民事主体从事民事活动，不得违反法律。"
    pair = Pair("1", "违法的合同有效吗", f"《民法典》{article}", "law")
    texts = [pair.positive, f"中华人民共和国民法典{article}", *TEXTS[3:]]
    pool = Pool([*texts, *(f"远{n}" for n in range(5))], at(30, 35, 36, 50, 90, *[143.39] * 5))
    settings = {"negatives": 1, "candidates": 5, "relative_margin": 0.05}
    ((mined, audit),) = mine([pair], at(0), at(30), pool, **settings)
    assert mined.negatives == ("工资",)
    assert [reason for *_, reason in audit.dropped] == ["known positive"] * 2
    row = Mined("1", pair.query, pair.positive, (texts[1], "工资"), (0.9, 0.8, 0.7), "law")
    (kept,) = without_known([row], known_answers([pair]), seed=0)
    assert kept.negatives == ("工资",)


def test_the_audit_says_what_was_left_out_and_why():
    _, audit = one()
    assert [(text, reason) for text, _, reason in audit.dropped] == [
        ("押金应当退还", "known positive"),
        ("押金，应当退还！", "known positive"),
        ("租金不退", "too close to the positive"),
    ]
    assert audit.dropped[2][1] == pytest.approx(np.cos(np.radians(33)), abs=1e-6)
    assert [text for text, _ in audit.kept] == ["工资", "离婚"]
    assert (audit.id, audit.query, audit.positive) == ("1", "押金怎么退", "押金应当退还")


@pytest.mark.parametrize(
    ("margin", "kept"),
    [
        (0.0, ("租金不退", "工资")),  # cos 33° = .8387 < .8660
        (0.03, ("租金不退", "工资")),  # .8387 < .8400
        (0.04, ("工资", "离婚")),  # .8387 > .8314
        (0.07, ("离婚", "商品")),  # cos 36° = .8090 > .8054
    ],
)
def test_the_margin_is_relative_to_the_positives_score(margin, kept):
    mined, _ = one(relative_margin=margin)
    assert mined.negatives == kept


def test_the_margin_is_counted_from_what_chance_scores():
    # cosines .90 (the positive), .88, .86, .70, .66: mean .80, so 30 % below .90 is .87
    pool = Pool(
        ["押金应当退还", *"甲乙丙丁"], at(*np.degrees(np.arccos([0.9, 0.88, 0.86, 0.7, 0.66])))
    )
    positive = at(np.degrees(np.arccos(0.9)))
    ((mined, audit),) = mine([PAIR], at(0), positive, pool, negatives=2, candidates=5,
                             relative_margin=0.3)  # fmt: skip
    assert mined.negatives == ("乙", "丙")
    assert [text for text, _, _ in audit.dropped] == ["押金应当退还", "甲"]


def test_the_nearest_alone_are_looked_at():
    mined, audit = one(candidates=4)
    assert mined is None and [text for text, _ in audit.kept] == ["工资"]
    mined, _ = one(candidates=4, negatives=1)
    assert mined.negatives == ("工资",)


def test_a_pair_with_too_few_negatives_is_dropped_and_counted_never_filled_up():
    mined, audit = one(negatives=4)
    assert mined is None and len(audit.kept) == 3
    assert summary([audit], 4) == {
        "pairs": 0, "pairs without enough negatives": 1, "known positive": 2,
        "too close to the positive": 1,
    }  # fmt: skip


def test_positives_of_the_same_question_are_nobodys_negatives():
    pairs = [PAIR, Pair("2", "押金，怎么退？", "租金不退", "law"), Pair("3", "别的", "工资", "law")]
    queries, positives = at(0, 0, 0), at(30, 33, 36)
    mined = [m for m, _ in mine(pairs, queries, positives, POOL, negatives=1, candidates=6,
                                relative_margin=0.0)]  # fmt: skip
    # 33° is an answer to the first question too, in another spelling.
    assert mined[0].negatives == ("工资",)
    assert mined[1].negatives == ("工资",)
    assert mined[2].negatives == ("离婚",)


def test_a_pair_that_is_not_mined_still_tells_what_answers_the_question():
    other = Pair("left out", "押金怎么退", "工资", "law")
    ((mined, audit),) = mine([PAIR], at(0), at(30), POOL, negatives=1, candidates=6,
                             relative_margin=0.0, others=[other])  # fmt: skip
    assert mined.negatives == ("租金不退",)
    ((mined, audit),) = mine([PAIR], at(0), at(30), POOL, negatives=2, candidates=6,
                             relative_margin=0.0, others=[other])  # fmt: skip
    assert mined.negatives == ("租金不退", "离婚")
    assert ("工资", "known positive") in [(text, reason) for text, _, reason in audit.dropped]


def answering(pairs, text):
    """What is known to answer a text, normalised."""
    texts = {normalised(each) for pair in pairs for each in (pair.query, pair.positive)}
    found = known_answers(pairs)[number(normalised(text))].tolist()
    return {each for each in texts if number(each) in found}


def test_what_answers_a_text():
    pairs = [
        Pair("1", "押金怎么退", "押金应当退还", "s"),
        Pair("2", "押金，怎么退？", "可以起诉", "s"),  # the same question in another spelling
        Pair("3", "可以起诉", "怎么起诉", "s"),  # a paraphrase: holds in both directions
    ]
    assert answering(pairs, "押金怎么退") == {"押金怎么退", "押金应当退还", "可以起诉"}
    assert answering(pairs, "可以起诉") == {"可以起诉", "押金怎么退", "怎么起诉"}
    assert answering(pairs, "怎么起诉") == {"怎么起诉", "可以起诉"}
    assert answering(pairs, "别的") == set()


def test_of_every_row_as_many_are_taken_as_half_of_the_rows_have():
    assert [usual(each) for each in ([], [3], [3, 2, 2], [8, 0], [8, 0, 0])] == [0, 3, 2, 8, 0]


# --- the cross-encoder ---

SCORES = {"押金应当退还": 0.9, "租金不退": 0.85, "工资": 0.8, "离婚": 0.3, "商品": 0.1}


@pytest.mark.parametrize(
    ("margin", "kept"),
    [
        (0.0, ("租金不退", "工资")),
        (0.05, ("租金不退", "工资")),  # .85 is at most .9 - .05
        (0.08, ("工资", "离婚")),
        (0.2, ("离婚", "商品")),
    ],
)
def test_a_neighbour_too_near_the_positive_by_the_cross_encoder_is_left_out(margin, kept):
    asked = []

    def judge(pairs):
        asked.extend(pairs)
        return [SCORES[text] for _, text in pairs]

    mined, audit = one(relative_margin=0.0, cross_encoder=Filter(judge, margin - 1e-9))
    assert mined.negatives == kept
    too_close = "too close by the cross-encoder"
    close = [text for text, _, reason in audit.dropped if reason == too_close]
    assert close == [text for text in ("租金不退", "工资") if text not in kept]
    assert summary([audit], 2).get(too_close, 0) == len(close)
    # Each text once, the positive first of all, nothing that was dropped before or not needed.
    texts = [text for _, text in asked]
    assert texts.count("押金应当退还") == 1 and len(texts) == len(set(texts))
    assert set(texts) == {"押金应当退还", *close, *kept} and {q for q, _ in asked} == {PAIR.query}


def test_the_cross_encoder_reads_the_texts_of_all_pairs_together():
    calls = []

    def judge(pairs):
        calls.append(len(pairs))
        return [SCORES[text] for _, text in pairs]

    pairs = [Pair(str(n), f"{PAIR.query}{n}", PAIR.positive, "law") for n in range(5)]
    vectors = np.repeat(at(0), 5, 0), np.repeat(at(30), 5, 0)
    found = list(mine(pairs, *vectors, POOL, negatives=2, candidates=6, relative_margin=0.0,
                      cross_encoder=Filter(judge, 0.08)))  # fmt: skip
    assert [mined.negatives for mined, _ in found] == [("工资", "离婚")] * 5
    assert calls == [5, 10, 5]  # the positives; two texts each; one more for the one refused


def test_counts_cover_every_neighbour_though_the_audit_lists_ten():
    texts = [f"近{n}" for n in range(30)] + ["远"]
    pool = Pool(texts, at(*[10] * 30, 80))
    ((mined, audit),) = mine([PAIR], at(0), at(30), pool, negatives=1, candidates=31,
                             relative_margin=0.0)  # fmt: skip
    assert mined.negatives == ("远",)
    assert len(audit.dropped) == 10
    assert summary([audit], 1) == {
        "pairs": 1, "pairs without enough negatives": 0, "too close to the positive": 30
    }  # fmt: skip


def test_on_random_vectors_no_negative_breaks_the_rules():
    rng = np.random.default_rng(0)

    def unit(count):
        vectors = rng.normal(size=(count, 6)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    texts = [f"文{n % 150}{'。' * (n // 150)}" for n in range(300)]  # each in two spellings
    pairs = [Pair(str(n), f"问{n % 40}", texts[n], "s") for n in range(120)]
    vectors = unit(300)
    queries = unit(120)
    results = list(mine(pairs, queries, vectors[:120], Pool(texts, vectors), negatives=3,
                        candidates=100, relative_margin=0.1))  # fmt: skip
    kept = [mined for mined, _ in results if mined]
    assert [audit.id for _, audit in results] == [pair.id for pair in pairs]
    assert 20 < len(kept) < 120
    for mined in kept:
        assert len(mined.negatives) == 3 and len(mined.scores) == 4
        chance = float(queries[int(mined.id)] @ vectors.mean(axis=0))
        limit = chance + 0.9 * (mined.scores[0] - chance)
        assert all(score <= limit + 1e-6 for score in mined.scores[1:])
        assert not answering(pairs, mined.query) & {normalised(text) for text in mined.negatives}
        assert list(mined.scores[1:]) == sorted(mined.scores[1:], reverse=True)


def test_pairs_are_mined_alike_in_blocks_and_in_clusters_on_disk(monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [Pair(str(n), f"问{n}", f"文{n}", "s") for n in range(50)]
    queries, pool = vectors[100:150], Pool([f"文{n}" for n in range(1500)], vectors)

    def mined(**how):
        return list(mine(pairs, queries, vectors[:50], pool, negatives=2, candidates=50,
                         relative_margin=0.0, **how))  # fmt: skip

    expected = mined()
    monkeypatch.setattr(mining, "_BLOCK", 7)  # the last digit differs with the size of a product
    # 32 texts looked at for each one wanted: all 1,500 here, so that nothing is missed.
    for found in (mined(), mined(search="ivf", folder=tmp_path)):
        for (one, _), (other, _) in zip(found, expected, strict=True):
            assert (one and one.negatives) == (other and other.negatives)
    assert any(each for each, _ in expected) and not list(tmp_path.iterdir())
