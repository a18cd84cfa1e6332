"""Makes sets and outcomes of runs that never were."""

import dataclasses
from pathlib import Path

import numpy as np

from finetune.config.compose import compose
from finetune.evaluation.artifacts import Outcome
from finetune.records import write_jsonl
from finetune.sets import EvaluationSet

EVIL = "<script>alert('x')</script>"
CONFIG = compose(["recipes=contrastive", "domain=statutes", "model=starter"])
SETTINGS = dataclasses.replace(
    CONFIG.evaluate,
    samples=2000,
    alpha=0.05,
    min_gain=0.0,
    visible=0.02,
    max_int8_drop=0.005,
    max_general_drop=0.005,
    max_latency_ms=None,
)


def make_set(name="statutes", per_kind=24):
    ids = [f"{kind}-{i:03d}" for kind in ("family", "labour") for i in range(per_kind)]
    return EvaluationSet(
        name,
        {key: f"问题 {key} {EVIL}" for key in ids},
        {f"d{key}": f"法条 {key} {EVIL} " + "很长" * 200 for key in ids},
        {key: {f"d{key}": 1} for key in ids},
    )


def write_outcomes(folder: Path, artifact: str, each: EvaluationSet, values) -> None:
    (folder / artifact).mkdir(parents=True, exist_ok=True)
    write_jsonl(
        folder / artifact / f"{each.name}.jsonl",
        (
            {
                "query": key,
                "ndcg@10": float(value),
                "mrr@10": float(value) / 2,
                "recall@100": 1.0,
                "top": [f"d{key}"],
            }
            for key, value in zip(each.queries, values, strict=True)
        ),
    )


def outcome(each, answer, other):
    """What each query got: its answer and another document lie so near."""
    ids = tuple(each.queries)
    others = (*ids[1:], ids[0])
    rows = [sorted([(a, f"d{key}"), (o, f"d{name}")], reverse=True)
            for key, name, a, o in zip(ids, others, answer, other, strict=True)]  # fmt: skip
    values = np.array([float(row[0][1] == f"d{key}") for key, row in zip(ids, rows, strict=True)])
    return Outcome(
        ids, dict.fromkeys(("ndcg@10", "mrr@10", "recall@100"), values),
        tuple(tuple(name for _, name in row) for row in rows), (),
        tuple(tuple(cosine for cosine, _ in row) for row in rows),
        tuple({f"d{key}": float(a)} for key, a in zip(ids, answer, strict=True)),
    )  # fmt: skip
