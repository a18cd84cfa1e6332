"""What every loader of a domain returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from finetune.disk import Lazy
from finetune.records import Dropped, Pair, Scored
from finetune.sets import AnySet


class Texts(Lazy[str]):
    """Both texts of every row, one after the other, read as they are asked for.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: Sequence[Pair | Scored]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return 2 * len(self._rows)

    def _at(self, place: int) -> str:
        return sides(self._rows[place // 2])[place % 2]

    def __iter__(self) -> Iterator[str]:
        return (text for row in self._rows for text in sides(row))


def sides(row: Pair | Scored) -> tuple[str, str]:
    """The two texts of a row: query and positive, or those that a score compares."""
    first, second = row.questions[-1]
    return first, second


@dataclass(frozen=True)
class Loaded:
    """What a domain holds, before sources are selected, leaks dropped and ``limit`` applied.

    Attributes:
        pairs: Rows that can be trained on.
        dropped: Rows that were left out.
        select: Evaluation sets that training may look at.
        report: Evaluation sets for the final scores.
        origin: The file or hub id that the pairs came from, where it is one.
        lines: The line of each pair in its file, by pair id, where there is a file.
        changed: How many texts were changed, by kind of change.
    """

    pairs: Sequence[Pair | Scored]
    dropped: Sequence[Dropped]
    select: tuple[AnySet, ...] = ()
    report: tuple[AnySet, ...] = ()
    origin: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
