"""Score one artifact on every evaluation set, and keep what each query got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation import retrieval
from finetune.evaluation.retrieval import METRICS, Ranking
from finetune.inference import Encoder
from finetune.progress import bar
from finetune.records import EvaluationSet, read_dicts, write_jsonl

_TOP = 10  # documents kept a query, for reading failures


@dataclass(frozen=True)
class Outcome:
    """What one artifact got on one set, by query: metrics ``[n]`` and the first documents."""

    queries: tuple[str, ...]
    metrics: Mapping[str, NDArray[np.float64]]
    top: tuple[tuple[str, ...], ...]


def evaluate(artifact: str, encoder: Encoder, sets: Sequence[EvaluationSet], out: Path) -> None:
    """Rank and score each set; write ``<out>/<artifact>/<set>.jsonl``, a line a query.

    Sets that share a corpus (the same questions in two scripts) encode it once.
    """
    folder = out / artifact
    folder.mkdir(parents=True, exist_ok=True)
    corpora: list[tuple[Mapping[str, str], NDArray[np.float32]]] = []
    for each in sets:
        vectors = next((known for corpus, known in corpora if corpus == each.corpus), None)
        if vectors is None:
            with bar(f"{artifact}: encode {each.name}", len(each.corpus)) as progress:
                vectors = encoder.encode(list(each.corpus.values()), progress=progress)
            corpora.append((each.corpus, vectors))
        ranking = retrieval.rank(encoder, each, corpus=vectors)
        write_outcome(folder / f"{each.name}.jsonl", outcome(ranking, each.qrels))


def outcome(ranking: Ranking, qrels: Mapping[str, Mapping[str, int]]) -> Outcome:
    """Score a ranking, and keep the first documents of each judged query."""
    rows = [i for i, query in enumerate(ranking.queries) if retrieval.judged(query, qrels)]
    return Outcome(
        queries=tuple(ranking.queries[i] for i in rows),
        metrics=retrieval.score(ranking, qrels),
        top=tuple(ranking.documents[i][:_TOP] for i in rows),
    )


def write_outcome(path: Path, result: Outcome) -> None:
    """Write a line a query: its metrics and its first documents."""
    rows = (
        {"query": query, **{m: float(result.metrics[m][i]) for m in METRICS}, "top": list(top)}
        for i, (query, top) in enumerate(zip(result.queries, result.top, strict=True))
    )
    write_jsonl(path, rows)


def read_outcome(path: Path) -> Outcome:
    """Read what `write_outcome` wrote."""
    rows = list(read_dicts(path))
    return Outcome(
        queries=tuple(row["query"] for row in rows),
        metrics={metric: np.array([row[metric] for row in rows]) for metric in METRICS},
        top=tuple(tuple(row["top"]) for row in rows),
    )
