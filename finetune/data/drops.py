"""Which dropped rows somebody should look at: all that cannot be used, and any others if many."""

from collections.abc import Iterator

from finetune.config.choices import Leak
from finetune.data import leaks
from finetune.data.findings import Example, Finding
from finetune.data.loaded import Loaded
from finetune.data.rows import CONFLICT, DUPLICATE, IDENTICAL, OTHER_SCORE
from finetune.records import Dropped

_EXAMPLES = 8  # shown of each finding
_MANY = 0.2  # share of the rows from which on even what is rightly dropped asks a question
# Reasons of one kind, what they mean, and what to do. What the settings leave out is none of them.
_KINDS = {
    "leaks": (
        leaks.DROPPED[Leak.strict],
        "The evaluation asks them, so they are not trained on.",
        "Name other training data, or evaluate on other questions: finetune split makes a set of "
        "some of the pairs.",
    ),
    "duplicates": (
        tuple(DUPLICATE.values()),
        "Each pair is trained on once.",
        "See that the right columns are read and the file was exported once; "
        "check.duplicates=none keeps them.",
    ),
    "contradictions": (
        (OTHER_SCORE, CONFLICT),
        "Another row says something else of the same texts.",
        "Decide which of the rows is right.",
    ),
    "rows whose texts are equal": (
        (IDENTICAL,),
        "They teach nothing.",
        "See that two columns are read: domain.columns.<field>=<column>.",
    ),
}


def look(loaded: Loaded) -> Iterator[Finding]:
    """Yield what to do about dropped rows.

    Args:
        loaded: Pairs and dropped rows, after leaks were dropped.
    """
    total = len(loaded.pairs) + len(loaded.dropped)
    unusable: dict[str, list[Dropped]] = {}
    counts: dict[str, int] = {}
    for row in loaded.dropped:
        counts[row.reason] = counts.get(row.reason, 0) + 1
        if row.problem and len(unusable.setdefault(row.reason, [])) < _EXAMPLES:
            unusable[row.reason].append(row)
    for reason, rows in unusable.items():
        yield Finding(
            f"rows that cannot be used, {reason}", counts[reason], total, "rows", True,
            "They are left out.",
            f"Correct or delete them. {_place(rows[0])}: {rows[0].problem}",
            tuple(Example(_place(row), row.text, row.problem) for row in rows),
        )  # fmt: skip
    for kind, (reasons, meaning, fix) in _KINDS.items():
        count = sum(counts.get(reason, 0) for reason in reasons)
        if count and count >= _MANY * total:
            yield Finding(f"dropped as {kind}", count, total, "rows", True, meaning, fix)


def _place(row: Dropped) -> str:
    return f"{row.source}:{row.line}"
