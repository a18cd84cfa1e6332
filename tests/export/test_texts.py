from collections import Counter

from finetune.export import draw

TEXTS = ["字" * length for length in range(1, 101)]


def test_every_length_is_drawn_from_alike():
    found = draw(TEXTS, 20, seed=0)
    assert len(set(found)) == 20
    tenths = Counter((len(text) - 1) // 10 for text in found)
    assert tenths == dict.fromkeys(range(10), 2)


def test_rare_lengths_count_as_much_as_common_ones():
    texts = [f"{n:02}" for n in range(90)] + [f"{n:050}" for n in range(10)]
    assert sum(len(text) == 50 for text in draw(texts, 10, seed=0)) == 1
    assert sum(len(text) == 50 for text in draw(texts, 30, seed=0)) == 3


def test_the_seed_decides_and_the_order_of_the_texts_does_not():
    assert draw(TEXTS, 20, seed=0) == draw(TEXTS[::-1] + TEXTS, 20, seed=0)
    assert draw(TEXTS, 20, seed=0) != draw(TEXTS, 20, seed=1)


def test_the_order_has_nothing_to_do_with_the_length():
    lengths = [len(text) for text in draw(TEXTS, 100, seed=0)]
    assert sorted(lengths) == list(range(1, 101)) and lengths[:50] != list(range(1, 51))
    assert 30 < sum(lengths[:50]) / 50 < 70


def test_texts_to_be_judged_on_are_not_drawn_where_there_are_others():
    assert set(draw(TEXTS, 50, seed=0, avoid=TEXTS[:50])) == set(TEXTS[50:])
    assert len(draw(TEXTS, 51, seed=0, avoid=TEXTS[:50])) == 51


def test_fewer_than_asked_for():
    assert sorted(draw(["b", "a", "b"], 9, seed=0)) == ["a", "b"]
    assert draw([], 9, seed=0) == draw(TEXTS, 0, seed=0) == []
