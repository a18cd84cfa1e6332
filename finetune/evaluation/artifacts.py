"""Score one artifact on every evaluation set, and keep what each query got."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation import retrieval, sts
from finetune.evaluation.retrieval import Ranking
from finetune.inference import Encoder
from finetune.progress import bar
from finetune.records import AnySet, ScoredSet, read_dicts, write_jsonl

_TOP = 10  # documents kept a query, for reading failures


@dataclass(frozen=True)
class Outcome:
    """What one artifact got on one set, by query (on a scored set: by pair).

    Attributes:
        queries: Ids of the ``n`` queries or pairs.
        metrics: By metric ``[n]`` values whose mean is the metric.
        top: The first documents of each query; none for pairs.
        cosines: Of each pair; none for queries.
    """

    queries: tuple[str, ...]
    metrics: Mapping[str, NDArray[np.float64]]
    top: tuple[tuple[str, ...], ...]
    cosines: tuple[float, ...] = ()

    @property
    def main(self) -> str:
        """The metric that decides, which is the first."""
        return next(iter(self.metrics))


def evaluate(artifact: str, encoder: Encoder, sets: Sequence[AnySet], out: Path) -> None:
    """Score each set; write ``<out>/<artifact>/<set>.jsonl``, a line a query or pair.

    Sets that share a corpus (the same questions in two scripts) encode it once.
    """
    folder = out / artifact
    folder.mkdir(parents=True, exist_ok=True)
    corpora: list[tuple[Mapping[str, str], NDArray[np.float32]]] = []
    for each in sets:
        vectors = None
        if not isinstance(each, ScoredSet):
            vectors = next((known for corpus, known in corpora if corpus == each.corpus), None)
            if vectors is None:
                with bar(f"{artifact}: encode {each.name}", len(each.corpus)) as progress:
                    vectors = encoder.encode(list(each.corpus.values()), progress=progress)
                corpora.append((each.corpus, vectors))
        write_outcome(folder / f"{each.name}.jsonl", score(encoder, each, corpus=vectors))


def score(
    encoder: Encoder,
    each: AnySet,
    *,
    corpus: NDArray[np.float32] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Score an encoder on a set of either shape.

    Args:
        encoder: Any encoder.
        each: The set.
        corpus: The vectors ``[m, dim]`` of a retrieval set's corpus where they are known already.
        progress: Called with the number of texts encoded.
    """
    if isinstance(each, ScoredSet):
        cosines = sts.similarities(encoder, each.pairs, progress)
        metrics = sts.score(cosines, np.array([pair.score for pair in each.pairs]))
        return Outcome(tuple(each.questions), metrics, (), tuple(cosines.tolist()))
    ranking = retrieval.rank(encoder, each, corpus=corpus, progress=progress)
    return outcome(ranking, each.qrels)


def outcome(ranking: Ranking, qrels: Mapping[str, Mapping[str, int]]) -> Outcome:
    """Score a ranking, and keep the first documents of each judged query."""
    rows = [i for i, query in enumerate(ranking.queries) if retrieval.judged(query, qrels)]
    return Outcome(
        queries=tuple(ranking.queries[i] for i in rows),
        metrics=retrieval.score(ranking, qrels),
        top=tuple(ranking.documents[i][:_TOP] for i in rows),
    )


def write_outcome(path: Path, result: Outcome) -> None:
    """Write a line a query: its metrics and its first documents; of a pair, its cosine."""
    rows: list[dict[str, Any]] = [{"query": query} for query in result.queries]
    for metric, values in result.metrics.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            row[metric] = value
    for row, top in zip(rows, result.top, strict=False):
        row["top"] = list(top)
    for row, cosine in zip(rows, result.cosines, strict=False):
        row["cosine"] = cosine
    write_jsonl(path, rows)


def read_outcome(path: Path) -> Outcome:
    """Read what `write_outcome` wrote."""
    rows = list(read_dicts(path))
    metrics = [name for name in rows[0] if name not in ("query", "top", "cosine")]
    return Outcome(
        queries=tuple(row["query"] for row in rows),
        metrics={metric: np.array([row[metric] for row in rows]) for metric in metrics},
        top=tuple(tuple(row["top"]) for row in rows if "top" in row),
        cosines=tuple(row["cosine"] for row in rows if "cosine" in row),
    )
