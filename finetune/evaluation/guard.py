"""The small set on which a model is scored while it trains."""

from collections.abc import Sequence

import numpy as np

from finetune.evaluation import bm25
from finetune.sets import EvaluationSet, ScoredSet

FEWEST_TEXTS = 300
_DEPTH = 10


def guard_texts(trained: int, share: float, epochs: float, checkpoints: int) -> int:
    """Texts that one scoring may cost, so that all cost a share of the training at most.

    Args:
        trained: Texts of the training rows; training on one costs as much as scoring three.
        share: Of the training.
        epochs: Of the training.
        checkpoints: Scorings, beside the first of the base.
    """
    return int(share * 3 * trained * epochs / (checkpoints + 1))


def pooled(
    select: EvaluationSet, base_top: Sequence[Sequence[str]], *, max_texts: int, seed: int
) -> EvaluationSet:
    """Keep the golds, and per query the documents that the base and BM25 rank first.

    A model is told from its base on these documents almost as well as on the whole corpus, at a
    fraction of the cost. Where even they are too many, queries are left out (seeded), never golds.

    Args:
        select: The select half.
        base_top: For each of its queries, the base's first documents, best first.
        max_texts: Texts (queries and passages) that one scoring may cost; at least 300 are used.
        seed: Of the choice of queries.
    """
    budget = max(max_texts, FEWEST_TEXTS)
    lexical = bm25.rank(select, _DEPTH).documents
    order = np.random.default_rng(seed).permutation(len(select.queries)).tolist()
    names = list(select.queries)
    # A third of the texts for queries and golds leaves room for distractors.
    kept = order[: max(10, budget // 6)]
    documents: dict[str, None] = {}
    for row in kept:
        documents |= dict.fromkeys(select.qrels.get(names[row], {}))
    for depth in range(_DEPTH):
        for row in kept:
            for top in (base_top[row], lexical[row]):
                if depth < len(top) and len(documents) + len(kept) < budget:
                    documents[top[depth]] = None
    corpus = {key: text for key, text in select.corpus.items() if key in documents}
    small = select.only({names[row] for row in kept})
    return EvaluationSet(select.name, small.queries, corpus, small.qrels)


def sampled(select: ScoredSet, *, max_texts: int, seed: int) -> ScoredSet:
    """Draw pairs of a scored select half, in its order.

    Args:
        select: The select half.
        max_texts: Texts that one scoring may cost, two a pair; at least 300 are used.
        seed: Of the choice.
    """
    ids = list(select.questions)
    order = np.random.default_rng(seed).permutation(len(ids)).tolist()
    return select.only({ids[row] for row in order[: max(max_texts, FEWEST_TEXTS) // 2]})
