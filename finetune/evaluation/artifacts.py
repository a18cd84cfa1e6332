"""Score one artifact on every evaluation set, and keep what each query got."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation import bm25, reranking, retrieval, sts
from finetune.evaluation.retrieval import Ranking
from finetune.inference import Encoder
from finetune.progress import bar
from finetune.records import read_dicts, write_jsonl
from finetune.sets import AnySet, EvaluationSet, RerankingSet, ScoredSet

_TOP = 10  # documents kept a query, for reading failures
# What an outcome tells of a query or pair beside its metrics: key of its line, field.
_DETAILS = {"top": "top", "cosine": "cosines", "scores": "scores", "answers": "answers"}


@dataclass(frozen=True)
class Outcome:
    """What one artifact got on one set, by query (on a scored set: by pair).

    Attributes:
        queries: Ids of the ``n`` queries or pairs.
        metrics: By metric ``[n]`` values whose mean is the metric.
        top: The first documents of each query; none for pairs.
        cosines: Of each pair; none for queries.
        scores: Of the first documents; none for pairs.
        answers: Cosines of each query's relevant documents; none for pairs and BM25.
    """

    queries: tuple[str, ...]
    metrics: Mapping[str, NDArray[np.float64]]
    top: tuple[tuple[str, ...], ...]
    cosines: tuple[float, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()
    answers: tuple[Mapping[str, float], ...] = ()

    @property
    def main(self) -> str:
        """The metric that decides, which is the first."""
        return next(iter(self.metrics))


def evaluate(
    artifact: str,
    encoder: Encoder,
    sets: Sequence[AnySet],
    out: Path,
    select: tuple[AnySet, Path] | None = None,
) -> None:
    """Score each set; write ``<out>/<artifact>/<set>.jsonl``, a line a query or pair.

    Args:
        artifact: Its name.
        encoder: Any encoder; sets that share a corpus want one that remembers
            (`finetune.evaluation.remembered`).
        sets: Of the report half.
        out: Where what their queries got goes.
        select: The select half too, and where that goes.
    """
    for each, place in [*((each, out) for each in sets), *([select] if select else [])]:
        folder = place / artifact
        folder.mkdir(parents=True, exist_ok=True)
        with bar(f"{artifact}: {each.name}", len(each.prompted)) as progress:
            found = score(encoder, each, progress=progress)
        write_outcome(folder / f"{each.name}.jsonl", found)


def score(
    encoder: Encoder,
    each: AnySet,
    *,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Score an encoder on a set of either shape.

    Args:
        encoder: Any encoder.
        each: The set.
        progress: Called with the number of texts encoded.
    """
    if isinstance(each, ScoredSet):
        cosines = sts.similarities(encoder, each.pairs, progress)
        metrics = sts.score(cosines, np.array([pair.score for pair in each.pairs]))
        return Outcome(tuple(each.questions), metrics, (), tuple(cosines.tolist()))
    if isinstance(each, RerankingSet):
        ranked = reranking.rank(encoder, each, progress=progress)
        return outcome(ranked, each.qrels, reranking.score(ranked, each))
    return outcome(retrieval.rank(encoder, each, progress=progress), each.qrels)


def lexical(each: EvaluationSet) -> Outcome:
    """Score BM25 on a set.

    Raises:
        UserError: When bm25s is not installed.
    """
    if isinstance(each, RerankingSet):
        ranked = reranking.ranking(each, bm25.scores(each))
        return outcome(ranked, each.qrels, reranking.score(ranked, each))
    return outcome(bm25.rank(each), each.qrels)


def outcome(
    ranking: Ranking,
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Mapping[str, NDArray[np.float64]] | None = None,
) -> Outcome:
    """Score a ranking (where that is not done), and keep each judged query's first documents."""
    rows = [i for i, query in enumerate(ranking.queries) if retrieval.judged(query, qrels)]
    return Outcome(
        queries=tuple(ranking.queries[i] for i in rows),
        metrics=metrics or retrieval.score(ranking, qrels),
        top=tuple(ranking.documents[i][:_TOP] for i in rows),
        scores=tuple(
            tuple(ranking.scores[i][: len(ranking.documents[i])][:_TOP].tolist()) for i in rows
        ),
        answers=tuple(ranking.answers[i] for i in rows) if ranking.answers else (),
    )


def write_outcome(path: Path, result: Outcome) -> None:
    """Write a line a query or pair: its metrics, and of `_DETAILS` what there is."""
    rows: list[dict[str, Any]] = [{"query": query} for query in result.queries]
    columns = {name: values.tolist() for name, values in result.metrics.items()}
    columns |= {field: getattr(result, name) for field, name in _DETAILS.items()}
    for field, values in columns.items():
        if len(values):
            for row, value in zip(rows, values, strict=True):
                row[field] = value
    write_jsonl(path, rows)


def read_outcome(path: Path) -> Outcome:
    """Read what `write_outcome` wrote."""
    rows = list(read_dicts(path))
    metrics = [name for name in rows[0] if name != "query" and name not in _DETAILS]
    details = {field: [row[field] for row in rows] for field in _DETAILS if field in rows[0]}
    return Outcome(
        queries=tuple(row["query"] for row in rows),
        metrics={metric: np.array([row[metric] for row in rows]) for metric in metrics},
        top=tuple(map(tuple, details.get("top", ()))),
        cosines=tuple(details.get("cosine", ())),
        scores=tuple(map(tuple, details.get("scores", ()))),
        answers=tuple(details.get("answers", ())),
    )
