"""Noise: pairs whose positive is no answer, as far as the base model can tell.

A positive's *rank* is the share of the other passages that lie farther from the query: 1 where it
is the nearest of all, about 1/2 where it is as near as any. Unlike a cosine it means the same for
every model, however close together its cosines lie. What else is known to answer the query is not
counted, and a pair that is left out stays known: its positive is nobody's hard negative.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.disk import Lookup, number, numbers, rows
from finetune.embedded import vectors_of
from finetune.errors import UserError
from finetune.mining import Pool, Vectors, known_answers
from finetune.records import (
    Pair,
    normalised,
    passage,
    read_dicts,
    read_json,
    read_known,
    write_json,
    write_jsonl,
)

log = logging.getLogger(__name__)

_BLOCK = 2**24  # scores held at once: 64 MiB
_SHOWN = 3  # pairs of either side of the cut
_WIDTH = 40  # characters of a text that is shown


def leave_out(cut: float, given: Path, embedded: Path, out: Path) -> None:
    """Write ``train.jsonl`` without noise, and ``noise.jsonl`` with every pair's rank, worst first.

    Args:
        cut: The least rank that is kept.
        given: Folder of the pairs.
        embedded: What the embed step made of them.
        out: Also gets ``known.jsonl`` and ``summary.json``.

    Raises:
        UserError: Nothing is left.
    """
    pairs, others = rows(given / "train.jsonl", Pair), read_known(given)
    queries, pool = vectors_of(embedded, (pair.query for pair in pairs))
    found = ranks(pairs, queries, pool, others)
    kept = (pair for pair, rank in zip(pairs, found, strict=True) if rank >= cut)
    noise = [pair for pair, rank in zip(pairs, found, strict=True) if rank < cut]
    if len(noise) == len(pairs):
        raise UserError(
            f"noise.cut={cut}: none of {len(pairs):,} pairs is left; the best has rank "
            f"{found.max():.3f}; lower it, or set noise=none"
        )
    order = np.argsort(found, kind="stable").tolist()
    write_jsonl(out / "noise.jsonl", (_told(pairs[i], float(found[i]), cut) for i in order))
    write_jsonl(out / "train.jsonl", kept)
    write_jsonl(out / "known.jsonl", [*others, *noise])
    write_json(out / "summary.json", summary(pairs, noise))
    _show(pairs, found, order, len(noise))


def ranks(
    pairs: Sequence[Pair], queries: Vectors, pool: Pool, others: Sequence[Pair] = ()
) -> NDArray[np.float64]:
    """Rank each pair's positive among the passages.

    Args:
        pairs: ``n`` pairs.
        queries: Their query vectors, ``[n, dim]``, unit length.
        pool: The passages, the positives among them.
        others: Further pairs, whose positives are known answers too.

    Returns:
        ``[n]`` shares of the passages that are not known to answer the query and lie farther from
        it than the positive; ties count half. 1 where there is no other passage.
    """
    answers = known_answers(chain(pairs, others))
    places = Lookup(numbers(map(passage, pool.texts)))
    positives = pool.of(pair.positive for pair in pairs).rows
    found = np.ones(len(pairs))
    block = max(1, _BLOCK // len(pool.texts))
    for start in range(0, len(pairs), block):
        scores = queries[start : start + block] @ pool.vectors.T
        for own, line in enumerate(scores):
            asked = number(normalised(pairs[start + own].query))
            known = [place for key in set(answers[asked].tolist()) for place in places[key]]
            found[start + own] = _rank(line, float(line[positives[start + own]]), known)
    return found


def _rank(line: NDArray[np.float32], positive: float, known: Sequence[int]) -> float:
    """The rank from a query's scores with all passages, ``[m]``."""
    others = np.delete(line, known)
    if not others.size:
        return 1.0
    return float(((others < positive).sum() + (others == positive).sum() / 2) / others.size)


def summary(pairs: Sequence[Pair], left_out: Sequence[Pair]) -> dict[str, Any]:
    """Counts for the report; by source where there are several."""
    content: dict[str, Any] = {"pairs": len(pairs) - len(left_out), "noise": len(left_out)}
    all_sources, dropped = (Counter(pair.source for pair in each) for each in (pairs, left_out))
    if len(all_sources) > 1:
        content["noise by source"] = {
            name: f"{dropped[name]:,} of {count:,}" for name, count in all_sources.most_common()
        }
    return content


def samples(folder: Path, count: int) -> list[dict[str, Any]]:
    """Some of the pairs that were left out, with their ranks: from the worst to the last of them.

    Args:
        folder: What `leave_out` wrote.
        count: How many at most, at least 1.
    """
    left_out = read_json(folder / "summary.json")["noise"]
    places = set(np.linspace(0, left_out - 1, min(count, left_out), dtype=int).tolist())
    rows = islice(read_dicts(folder / "noise.jsonl"), left_out)  # the worst come first
    return [row for place, row in enumerate(rows) if place in places]


def _told(pair: Pair, rank: float, cut: float) -> dict[str, Any]:
    return {"rank": round(rank, 4), "kept": rank >= cut, **dataclasses.asdict(pair)}


def _show(
    pairs: Sequence[Pair], found: NDArray[np.float64], order: Sequence[int], count: int
) -> None:
    """Log how many were left out, and the pairs beside the cut on either side."""
    log.info("noise: %s of %s pairs left out; all with their ranks: noise.jsonl of the step",
             f"{count:,}", f"{len(pairs):,}")  # fmt: skip
    for index in order[max(0, count - _SHOWN) : count + _SHOWN]:
        texts = (_short(pairs[index].query), _short(pairs[index].positive))
        word = "left out" if index in order[:count] else "kept"
        log.info("  %-8s rank %.3f  %s → %s", word, found[index], *texts)


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
