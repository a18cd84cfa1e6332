import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.inference import token_budget_batches


def test_worked_by_hand():
    batches = token_budget_batches(np.array([3, 10, 4, 12, 3]), budget=10)
    # 12 exceeds the budget and 10 fills it: alone; 4 + 3 padded to 4 are 8; the last 3 is over.
    assert [batch.tolist() for batch in batches] == [[3], [1], [2, 0], [4]]


def test_no_text_no_batch():
    assert list(token_budget_batches(np.array([], dtype=np.int64))) == []


@given(st.lists(st.integers(0, 600)), st.integers(1, 700))
def test_every_index_once_within_the_budget_longest_first(lengths, budget):
    batches = list(token_budget_batches(np.array(lengths, dtype=np.int32), budget))
    flat = [int(i) for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(st.lists(st.integers(1, 20), min_size=1))
def test_a_batch_is_full_unless_it_is_the_last(lengths):
    batches = list(token_budget_batches(np.array(lengths), 40))
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > 40


def test_refuses_no_budget():
    with pytest.raises(ValueError, match="budget is 0"):
        list(token_budget_batches(np.array([1]), 0))
