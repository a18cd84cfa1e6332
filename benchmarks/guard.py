"""How far the guard's small set is from the whole one: the gain that each sees of the same tuning.

python benchmarks/guard.py <set> <base> <tuned>

A BEIR-shaped set, and the bundles of a base and of a model tuned from it. On the whole select half,
and on sets of 500, 900 and 2,000 texts of it (20 draws each): those of `finetune.evaluation.guard`,
and such as it would be with what the base ranks first among the distractors, or with drawn ones
alone.

The kept result is of the starter and of the run that `benchmarks/curve.py` keeps as medical-5000,
whose folder has the tuned bundle; the base's lies in the cache, under the key of ``export-base``.

Writes ``benchmarks/results/guard/<set>.json`` and prints the table.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common.runs import RESULTS
from numpy.typing import NDArray

from finetune.commands.scoring import read
from finetune.evaluation import bm25, guard, retrieval
from finetune.inference import OnnxEncoder, top_k
from finetune.progress import bar
from finetune.sets import EvaluationSet

_BUDGETS = (500, 900, 2_000)
_DRAWS = 20
_DEPTH = 10
Make = Callable[[EvaluationSet, int], EvaluationSet]
Vectors = tuple[Mapping[str, NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


def encoded(bundle: Path, whole: EvaluationSet) -> Vectors:
    """Vectors of queries and passages by id."""
    encoder = OnnxEncoder.load(bundle, "fp32")
    with bar(f"encode {bundle}", len(whole.prompted)) as progress:
        queries = encoder.encode(list(whole.queries.values()), "query", progress=progress)
        corpus = encoder.encode(list(whole.corpus.values()), progress=progress)
    return dict(zip(whole.queries, queries, strict=True)), dict(
        zip(whole.corpus, corpus, strict=True)
    )


def ndcg(vectors: Vectors, small: EvaluationSet) -> float:
    """NDCG@10, in points."""
    queries = np.stack([vectors[0][key] for key in small.queries])
    corpus = np.stack([vectors[1][key] for key in small.corpus])
    best = top_k(queries, corpus, retrieval.DEPTH)
    found = retrieval.ranking(tuple(small.queries), tuple(small.corpus), *best)
    return 100 * float(retrieval.score(found, small.qrels)["ndcg@10"].mean())


def with_mistakes(whole: EvaluationSet, base: Vectors) -> Make:
    """Distractors are what the base and BM25 rank first, ten of each a query at most."""
    ids = list(whole.corpus)
    _, found = top_k(np.stack(list(base[0].values())), np.stack(list(base[1].values())), _DEPTH)
    own = dict(zip(whole.queries, ([ids[place] for place in row] for row in found), strict=True))
    lexical = dict(zip(whole.queries, bm25.rank(whole, _DEPTH).documents, strict=True))

    def make(small: EvaluationSet, seed: int) -> EvaluationSet:
        ranked = [top[query][depth] for depth in range(_DEPTH) for query in small.queries
                  for top in (own, lexical) if depth < len(top[query])]  # fmt: skip
        return _refilled(whole, small, ranked)

    return make


def drawn(whole: EvaluationSet) -> Make:
    """Distractors are drawn."""

    def make(small: EvaluationSet, seed: int) -> EvaluationSet:
        order = np.random.default_rng(seed).permutation(len(whole.corpus))
        ids = list(whole.corpus)
        return _refilled(whole, small, [ids[place] for place in order])

    return make


def _refilled(
    whole: EvaluationSet, small: EvaluationSet, distractors: Sequence[str]
) -> EvaluationSet:
    """The same queries and as many passages, but other distractors."""
    kept = dict.fromkeys(key for row in small.qrels.values() for key in row)
    for key in distractors:
        if len(kept) >= len(small.corpus):
            break
        kept[key] = None
    corpus = {key: text for key, text in whole.corpus.items() if key in kept}
    return EvaluationSet(small.name, small.queries, corpus, small.qrels)


def measured(whole: EvaluationSet, base: Vectors, tuned: Vectors) -> list[dict[str, Any]]:
    """Rows of the table: base, gain, and its spread over draws, by kind and size of the set."""
    kinds: dict[str, Make] = {
        "the guard's": lambda small, seed: small,
        "the base's first and BM25's": with_mistakes(whole, base),
        "drawn": drawn(whole),
    }
    rows = [
        _row("whole select half", len(whole.prompted), [(ndcg(base, whole), ndcg(tuned, whole))])
    ]
    for budget in _BUDGETS:
        small = [guard.pooled(whole, max_texts=budget, seed=seed) for seed in range(_DRAWS)]
        for kind, make in kinds.items():
            made = [make(each, seed) for seed, each in enumerate(small)]
            rows.append(
                _row(kind, budget, [(ndcg(base, each), ndcg(tuned, each)) for each in made])
            )
    return rows


def _row(kind: str, texts: int, scores: Sequence[tuple[float, float]]) -> dict[str, Any]:
    gains = [after - before for before, after in scores]
    return {
        "set": kind,
        "texts": texts,
        "base": round(statistics.mean(before for before, _ in scores), 2),
        "gain": round(statistics.mean(gains), 2),
        "spread": round(statistics.pstdev(gains), 2),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table."""
    head = "| distractors | texts | base | gain | spread over draws | gain, % of the base |"
    lines = [head, "| --- " * (head.count("|") - 1) + "|"]
    lines += [
        f"| {row['set']} | {row['texts']} | {row['base']:.1f} | {row['gain']:+.1f} | "
        f"{row['spread']:.1f} | {100 * row['gain'] / row['base']:+.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", type=Path)
    asked = parser.parse_args()
    if not asked.set.is_dir():
        print(f"skipped: {asked.set} is not there")
        return 0
    whole = read(asked.set, "select")
    rows = measured(whole, encoded(asked.base, whole), encoded(asked.tuned, whole))
    kept = RESULTS / "guard" / f"{whole.name}.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
