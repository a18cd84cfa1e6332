"""Pairs that a step makes, of documents or of queries: checked as those that are read, counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import Model
from finetune.config.choices import Use
from finetune.config.pairs import Check
from finetune.data import findings
from finetune.data.loaded import Loaded
from finetune.data.prepare import NEAR, inspect, tell_found
from finetune.records import Dropped, Pair, read_json, read_known, write_json, write_jsonl


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
        pairs: Those that are trained on.
        dropped: Those that are not, and what none could be made of.
        found: How many findings of each kind.
    """

    pairs: Sequence[Pair]
    dropped: Sequence[Dropped]
    found: Mapping[str, int]


def look(loaded: Loaded, check: Check, model: Model | None, out: Path) -> Made:
    """Drop the leaks; tell what else there is to look at, near duplicates in ``near.jsonl``.

    Args:
        loaded: Pairs as they were made, and every set that selects or reports.
        check: How strict to be.
        model: The base, which changes what the log advises.
        out: An existing folder.
    """
    loaded, found = inspect(loaded, check, model, out / NEAR)
    tell_found(found)
    kept = [pair for pair in loaded.pairs if isinstance(pair, Pair)]
    return Made(kept, loaded.dropped, findings.counted(found))


def write(
    made: Made,
    own: Sequence[Pair],
    given: Path,
    use: Use,
    setting: str,
    out: Path,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Write what the data step writes; return the summary.

    Args:
        made: What was made.
        own: The pairs of an earlier step, which stay beside it or make room.
        given: Output of that step.
        use: Whether they do.
        setting: The key that says so.
        out: An existing folder.
        told: What else the summary says.
    """
    joined = use is Use.join
    pairs = [*own, *made.pairs] if joined else made.pairs
    dropped = list(made.dropped)
    if use is Use.only:
        reason = f"own pair: {setting}=only"
        dropped += [Dropped(reason, pair.source, 0, pair.query) for pair in own]
    write_jsonl(out / "train.jsonl", pairs)
    # What is known to answer a query is nobody's hard negative.
    write_jsonl(out / "known.jsonl", [*read_known(given), *(() if joined else own)])
    write_jsonl(out / "dropped.jsonl", dropped)
    before = read_json(given / "summary.json")
    reasons = Counter(before["dropped"]) + Counter(row.reason for row in dropped)
    found = Counter(made.found) + Counter(before["findings"] if joined else {})
    summary = {
        **before,
        "pairs": len(pairs),
        "read": len(pairs) + sum(reasons.values()),
        "dropped": dict(sorted(reasons.items())),
        "sources": dict(sorted(Counter(pair.source for pair in pairs).items())),
        "findings": dict(found),
        **told,
    }
    write_json(out / "summary.json", summary)
    return summary
