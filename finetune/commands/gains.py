"""What so many pairs may bring: the family's rule of thumb, and what was measured here.

``gains.json`` beside this file is ``points.json`` of ``benchmarks/curve.py``: by domain and number
of pairs the gain in NDCG@10 on the report half, with its interval; empty before its first run.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.choices import Kind
from finetune.data.findings import Finding
from finetune.records import read_json

MEASURED = Path(__file__).with_name("gains.json")
# The M3E family's rule of thumb, not a measurement of ours.
_NOTICED, _PRODUCTION = 5_000, 50_000
_LEAST = 100  # as many questions as `finetune split` asks for; no gain was measured of so few

Points = Sequence[Mapping[str, Any]]


def expected(pairs: int, kind: Kind, points: Points | None = None) -> str:
    """Say what this many pairs may bring.

    Args:
        pairs: How many there are.
        kind: What they are; of scored pairs no gain is known.
        points: What was measured; None reads `MEASURED`.
    """
    if kind is Kind.scored:
        return "What so many scored pairs may bring was not measured."
    measured = "; ".join(_measured(pairs, read_json(MEASURED) if points is None else points))
    return f"{_rule(pairs)} Measured here, by domain: {measured}." if measured else _rule(pairs)


def too_few(pairs: int, read: int) -> Iterator[Finding]:
    """Yield what to do where so few of the rows read are left that no gain can be hoped for."""
    if pairs < _LEAST:
        yield Finding(
            "too few to train on", pairs, read, "rows", True,
            "No gain was measured with so few.", "Some hundreds are the least: add pairs.",
        )  # fmt: skip


def _rule(pairs: int) -> str:
    rule = (
        f"Rule of thumb of the M3E family, not measured here: {_NOTICED:,} pairs for a gain that "
        f"is noticed, {_PRODUCTION:,} for production."
    )
    if pairs < _NOTICED:
        return f"{rule} These are {pairs:,}: {_NOTICED - pairs:,} short of the first."
    if pairs < _PRODUCTION:
        return f"{rule} These are {pairs:,}, between the two."
    return f"{rule} These are {pairs:,}, enough for both."


def _measured(pairs: int, points: Points) -> Iterator[str]:
    """Of each domain what was gained with the next fewer and the next more pairs."""
    for domain in dict.fromkeys(point["domain"] for point in points):
        own = {point["pairs"]: point for point in points if point["domain"] == domain}
        fewer = max((size for size in own if size <= pairs), default=None)
        more = min((size for size in own if size >= pairs), default=None)
        near = [own[size] for size in dict.fromkeys((fewer, more)) if size is not None]
        yield f"{domain} {', '.join(map(_told, near))}"


def _told(point: Mapping[str, Any]) -> str:
    gain, low, high = (f"{100 * point[key]:+.1f}" for key in ("gain", "low", "high"))
    return f"{gain} points NDCG@10 [{low}, {high}] with {point['pairs']:,} pairs"
