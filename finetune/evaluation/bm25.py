"""The lexical baseline: BM25 on characters and character bigrams, default parameters.

Bigrams alone find 0.6 to 4.1 points NDCG@10 less on the four domains, and a baseline that is easily
beaten proves nothing.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError
from finetune.evaluation.retrieval import DEPTH, Ranking, ranking
from finetune.records import normalised
from finetune.sets import EvaluationSet, RerankingSet


def rank(evaluation_set: EvaluationSet, depth: int = DEPTH) -> Ranking:
    """Rank the corpus for each query with bm25s.

    Raises:
        UserError: When bm25s is not installed.
    """
    indices, scores = _engine(evaluation_set.corpus.values()).retrieve(
        _queries(evaluation_set.queries.values()),
        k=min(depth, len(evaluation_set.corpus)),
        show_progress=False,
    )
    ids = tuple(evaluation_set.corpus)
    return ranking(tuple(evaluation_set.queries), ids, scores, indices)


def scores(evaluation_set: RerankingSet) -> list[NDArray[np.float32]]:
    """Score each query's candidates with bm25s, in their order.

    Raises:
        UserError: When bm25s is not installed.
    """
    engine = _engine(evaluation_set.corpus.values())
    rows = {name: row for row, name in enumerate(evaluation_set.corpus)}
    asked = _queries(evaluation_set.queries.values())
    found = []
    for query, tokens in zip(evaluation_set.queries, asked, strict=True):
        candidates = [rows[name] for name in evaluation_set.candidates[query]]
        known = engine.get_scores(tokens) if tokens else np.zeros(len(rows), np.float32)
        found.append(known[candidates])
    return found


def first(queries: Sequence[str], passages: Sequence[str]) -> NDArray[np.int64]:
    """Return the passage that BM25 ranks first for each query, ``[n]``; -1 where none matches.

    Raises:
        UserError: When bm25s is not installed.
    """
    indices, scores = _engine(passages).retrieve(_queries(queries), k=1, show_progress=False)
    return np.where(scores[:, 0] > 0, indices[:, 0].astype(np.int64), -1)


def _engine(passages: Iterable[str]) -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise UserError("BM25 needs bm25s: pip install 'finetune[evaluate]'") from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every index at debug level
    engine = bm25s.BM25()
    engine.index(_tokens(passages), show_progress=False)
    return engine


def _queries(texts: Iterable[str]) -> list[list[str]]:
    # A query of punctuation alone has no tokens; bm25s fails on an empty one.
    return [list(filter(None, tokens)) for tokens in _tokens(texts)]


def bigrams(text: str) -> list[str]:
    """Character bigrams of the normalised text; a single character stands for itself."""
    plain = normalised(text)
    return [plain[i : i + 2] for i in range(len(plain) - 1)] or [plain]


def grams(text: str) -> list[str]:
    """Characters and character bigrams of the normalised text."""
    plain = normalised(text)
    return [*plain, *bigrams(text)] if len(plain) > 1 else [plain]


def _tokens(texts: Iterable[str]) -> list[list[str]]:
    return [grams(text) for text in texts]
