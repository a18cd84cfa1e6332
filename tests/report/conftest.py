"""A small run that was never made: 48 queries of two kinds, four artifacts and BM25."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic import CONFIG, SETTINGS, make_set, outcome, write_outcomes

from finetune.evaluation.artifacts import write_outcome
from finetune.report import Facts


@pytest.fixture
def facts(tmp_path) -> Facts:
    """A run whose tuned model gains 10 points and whose INT8 loses none."""
    rng = np.random.default_rng(0)
    sets = [make_set(), make_set("statutes-traditional")]
    for each in sets:
        base = rng.uniform(0.1, 0.8, len(each.queries))
        tuned = base + 0.1 + rng.normal(0, 0.05, len(base))
        for folder, artifact, values in (
            ("base", "bm25", base - 0.05),
            ("base", "base", base),
            ("tuned", "tuned", tuned),
            ("tuned", "onnx-fp32", tuned),
            ("tuned", "onnx-int8-dynamic", tuned + rng.normal(0, 1e-4, len(base))),
        ):
            write_outcomes(tmp_path / folder, artifact, each, values)
    curves = tmp_path / "curves.jsonl"
    rows = [
        {"step": 0, "eval_ndcg@10": 0.5},
        {"step": 10, "loss": 2.0, "learning_rate": 1e-5, "grad_norm": 1.5},
        {"step": 20, "loss": 1.5, "learning_rate": 2e-5, "grad_norm": float("nan")},
        {"step": 20, "eval_ndcg@10": 0.58},
        {"step": 40, "eval_ndcg@10": 0.55},
    ]
    curves.write_text("".join(json.dumps(row) + "\n" for row in rows))
    speed = {"latency_ms": 3.0, "latency_low": 2.8, "latency_high": 3.2, "timed": 30,
             "texts_per_second": 250.0, "bytes": 138_000_000}  # fmt: skip
    return Facts(
        recipe="contrastive",
        domain="statutes",
        model=dataclasses.replace(CONFIG.model, licence="mit", trained_on=["MSMARCO", "NQ"]),
        evaluate=SETTINGS,
        seed=42,
        outcomes=[tmp_path / "base", tmp_path / "tuned"],
        speeds={
            "base": speed,
            "tuned": speed,
            "onnx-fp32": {**speed, "texts_per_second": 500.0},
            "onnx-int8-dynamic": {**speed, "texts_per_second": 1200.0, "bytes": 35_000_000},
        },
        data_summary={
            "pairs": 944,
            "read": 960,
            "dropped": {"exact duplicate": 16},
            "sets": {"statutes": {"select": 100, "report": 48, "passages": 6712}},
            "sources": {"written": 944},
        },
        mining={"pairs": 900, "known positive": 12},
        training={
            "base": 0.5,
            "best": 0.58,
            "best_step": 20,
            "improved": True,
            "steps": 40,
            "pairs_per_second": 11.5,
        },
        curves=curves,
        parity={
            "fp32": {"texts": 500, "min_cosine": 0.99999, "mean_cosine": 1.0},
            "int8-dynamic": {"texts": 500, "min_cosine": 0.99, "mean_cosine": 0.995},
        },
        sets=sets,
        domain_set="statutes",
    )


@pytest.fixture
def not_improved(facts) -> Facts:
    return dataclasses.replace(facts, training={**facts.training, "improved": False})


@pytest.fixture
def near(facts, tmp_path):
    """Facts of a run whose cosines are known on both halves."""
    rng = np.random.default_rng(0)
    each = make_set()
    n = len(each.queries)
    for artifact, shift in (("base", 0.3), ("tuned", 0.0), ("onnx-int8-dynamic", 0.01)):
        for folder in ["base"] if artifact == "base" else ["tuned", "select"]:
            answer = np.clip(rng.normal(0.5 + shift, 0.05, n), 0, 1)
            other = np.clip(rng.normal(0.3 + 1.4 * shift, 0.05, n), 0, 1)
            path = tmp_path / folder / artifact / "statutes.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_outcome(path, outcome(each, answer, other))
    return dataclasses.replace(facts, select=(tmp_path / "select", each))
