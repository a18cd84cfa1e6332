from pathlib import Path

import pytest

from finetune.commands import gains
from finetune.config.choices import Kind
from finetune.records import read_json

CURVE = Path(__file__).parents[2] / "benchmarks/results/curve/points.json"
POINTS = [
    {"domain": "legal", "pairs": 500, "gain": 0.004, "low": -0.002, "high": 0.01},
    {"domain": "legal", "pairs": 1000, "gain": 0.012, "low": 0.005, "high": 0.02},
    {"domain": "legal", "pairs": 5000, "gain": 0.03, "low": 0.02, "high": 0.04},
    {"domain": "medical", "pairs": 1000, "gain": 0.1, "low": 0.09, "high": 0.11},
]


@pytest.mark.parametrize(
    ("pairs", "said"), [(10, "4,990 short of the first"), (5_000, "between"), (50_000, "both")]
)
def test_the_gain_to_expect_is_a_rule_of_thumb_where_nothing_was_measured(pairs, said):
    told = gains.expected(pairs, Kind.pairs, [])
    assert said in told and "not measured here" in told and "Measured" not in told


@pytest.mark.parametrize(
    ("pairs", "legal"),
    [
        (10, "legal +0.4 points NDCG@10 [-0.2, +1.0] with 500 pairs; medical"),
        (1_000, "legal +1.2 points NDCG@10 [+0.5, +2.0] with 1,000 pairs; medical"),
        (2_000, "legal +1.2 points NDCG@10 [+0.5, +2.0] with 1,000 pairs, +3.0 points NDCG@10 "
                "[+2.0, +4.0] with 5,000 pairs; medical"),
        (9_000, "legal +3.0 points NDCG@10 [+2.0, +4.0] with 5,000 pairs; medical"),
    ],
)  # fmt: skip
def test_measured_gains_stand_behind_it_of_the_next_fewer_and_more_pairs(pairs, legal):
    told = gains.expected(pairs, Kind.pairs, POINTS)
    assert f"Measured here, by domain: {legal} +10.0 points" in told and "Rule of thumb" in told


def test_of_scored_pairs_no_gain_in_ranking_is_told():
    assert "NDCG" not in gains.expected(9_000, Kind.scored, POINTS)


def test_what_is_told_is_what_the_benchmark_measured():
    assert read_json(gains.MEASURED) == (read_json(CURVE) if CURVE.is_file() else [])
