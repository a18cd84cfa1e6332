"""Makes sets and outcomes of runs that never were."""

import dataclasses
from pathlib import Path

from finetune.compose import compose
from finetune.records import EvaluationSet, write_jsonl

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
