from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.disk import number
from finetune.mining import known_answers
from finetune.records import Pair
from finetune.training.batching import BatchSamplerShard, BucketSampler

# Few texts, so that queries share answers and negatives are others' answers.
TEXTS = st.sampled_from("甲乙丙丁戊己")
NAMES = {number(text): text for text in "甲乙丙丁戊己"}


def bucketed(rows, answers, batch_size, seed):
    """Batches of rows of texts: query, positive, negatives; and what answers each query."""
    lengths = np.array([sum(map(len, row)) for row in rows], np.float64)
    candidates = [row[1:] for row in rows]
    return BucketSampler(lengths, candidates, answers.__getitem__, batch_size, seed)


@st.composite
def samplers(draw):
    negatives = draw(st.integers(0, 2))
    row = st.lists(TEXTS, min_size=2 + negatives, max_size=2 + negatives)
    rows = draw(st.lists(row, min_size=1, max_size=40))
    pairs = [Pair(str(n), row[0], row[1], "s") for n, row in enumerate(rows)]
    known = known_answers(pairs)
    answers = [{NAMES[each] for each in known[number(row[0])].tolist()} for row in rows]
    return rows, answers, draw(st.integers(1, 7)), draw(st.integers(0, 2**32 - 1))


def epochs(sampler, count, first=0):
    drawn = []
    for epoch in range(first, first + count):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


@settings(max_examples=200, deadline=None)
@given(samplers())
def test_batches_hold_what_they_promise(case):
    rows, answers, batch_size, seed = case
    sampler = bucketed(rows, answers, batch_size, seed)
    for epoch in range(3):
        (batches,) = epochs(sampler, 1, epoch)
        assert len(batches) == len(sampler)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        seen = [index for batch in batches for index in batch]
        assert len(seen) == len(set(seen)) and set(seen) <= set(range(len(rows)))
        remainder = 0 if len(rows) < batch_size else len(rows) % batch_size
        assert len(seen) + sampler.left_out == len(rows) - remainder
        for batch in batches:
            for one, other in combinations(batch, 2):
                assert not set(rows[one][1:]) & answers[other]
                assert not set(rows[other][1:]) & answers[one]


@settings(max_examples=50, deadline=None)
@given(samplers())
def test_the_same_seed_draws_the_same_batches(case):
    assert epochs(bucketed(*case), 2) == epochs(bucketed(*case), 2)


def plain(count, length=lambda index: 10, batch_size=8, seed=0):
    rows = [(f"问{n}", f"{n}" + "答" * length(n)) for n in range(count)]
    return bucketed(rows, [{row[1]} for row in rows], batch_size, seed)


def as_sets(batches):
    return {frozenset(batch) for batch in batches}


def test_epochs_and_seeds_mix_rows_differently():
    first, second = epochs(plain(800, lambda n: n % 50), 2)
    (other,) = epochs(plain(800, lambda n: n % 50, seed=1), 1)
    assert len(as_sets(first) & as_sets(second)) < 3
    assert len(as_sets(first) & as_sets(other)) < 3


def test_long_batches_do_not_come_in_order_of_length():
    sampler = plain(800, lambda n: n)
    (batches,) = epochs(sampler, 1)
    means = [sampler.lengths[batch].mean() for batch in batches]
    rises = sum(a < b for a, b in zip(means, means[1:], strict=False))
    assert 30 < rises < 70  # of 99


def test_rows_of_a_batch_are_about_equally_long():
    sampler = plain(1600, lambda n: 1 + 7919 * n % 200)
    (batches,) = epochs(sampler, 1)

    def padded(groups):
        return sum(len(group) * sampler.lengths[group].max() for group in groups)

    whole = list(range(1600))
    unsorted = padded([whole[i : i + 8] for i in range(0, 1600, 8)])
    assert sampler.lengths.sum() <= padded(batches) < 1.2 * sampler.lengths.sum()
    assert padded(batches) < 0.75 * unsorted


@pytest.mark.parametrize(
    ("count", "batches"), [(1, 1), (7, 1), (8, 1), (15, 1), (16, 2), (800, 100)]
)
def test_how_many_batches_there_are(count, batches):
    sampler = plain(count)
    assert len(sampler) == batches == len(list(sampler))


def test_a_row_that_fits_nowhere_sits_out_and_is_counted():
    rows = [("同一个问题", f"答{n}") for n in range(8)]
    everything = {row[1] for row in rows}
    sampler = bucketed(rows, [everything] * 8, 4, 0)
    assert [len(batch) for batch in sampler] == [1, 1]
    assert sampler.left_out == 6 == sampler.unused()


@pytest.mark.parametrize(("count", "unused"), [(7, 0), (8, 0), (15, 7), (16, 0), (801, 1)])
def test_rows_that_are_too_few_for_another_batch_are_counted(count, unused):
    sampler = plain(count)
    assert sampler.unused() == unused == count - sum(map(len, sampler))


def test_a_row_that_clashes_comes_in_a_later_batch():
    rows = [("同", f"答{n}") for n in range(4)] + [(f"问{n}", f"别{n}") for n in range(60)]
    answers = [{f"答{n}" for n in range(4)}] * 4 + [{f"别{n}"} for n in range(60)]
    sampler = bucketed(rows, answers, 8, 0)
    (batches,) = epochs(sampler, 1)
    assert sampler.left_out == 0 and sum(map(len, batches)) == 64
    assert all(sum(index < 4 for index in batch) <= 1 for batch in batches)


@given(samplers(), st.integers(1, 4))
def test_processes_share_every_batch_evenly_and_without_duplicates(case, processes):
    whole = bucketed(*case)
    shares = [
        BatchSamplerShard(bucketed(*case), process, processes) for process in range(processes)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for epoch in (1, 0):
        (batches,) = epochs(whole, 1, epoch)
        parts = [epochs(share, 1, epoch)[0] for share in shares]
        full = [batch for batch in batches if len(batch) >= processes]
        assert {len(part) for part in parts} == {len(full)}
        for batch, *own in zip(full, *parts, strict=True):
            together = sorted(index for part in own for index in part)
            assert len({len(part) for part in own}) == 1
            assert len(together) == len(batch) - len(batch) % processes
            assert together == sorted(batch[: len(together)])
