"""Collect what is wrong with the user's data, so that all of it is told at once."""

import difflib
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from finetune.disk import Spilled
from finetune.errors import UserError
from finetune.records import Dropped

# Problems told in words; the rest are counted. More lines than this nobody reads.
SHOWN = 20
_LISTED = 12
_EXAMPLES = 3  # of what is wrong with dropped rows
# Characters of a dropped row's first text that are kept; file and line lead to the rest.
_DROPPED_TEXT = 200

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 3, 3

_KINDS = {type(None): "nothing", bool: "true or false", int: "a number", float: "a number",
          list: "a list", dict: "an object", bytes: "bytes", str: "text"}  # fmt: skip


class Problems:
    """The problems of one source: the first `SHOWN` in words, the others counted.

    Args:
        dropped: Where rows that cannot be used are put, if they do not end the run.

    Attributes:
        refused: Whether one of them is of a row that might have been dropped.
        examples: What was wrong with the first rows that were dropped.
    """

    def __init__(self, dropped: list[Dropped] | Spilled[Dropped] | None = None) -> None:
        self.first: list[str] = []
        self.count = 0
        self.dropped = dropped
        self.refused = False
        self.examples: list[str] = []

    def add(self, problem: str) -> None:
        """Keep one problem: place, value found, expectation, fix."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(problem)

    def refuse(self, row: Dropped, *problems: str) -> None:
        """Drop a row that cannot be used; where none may be dropped, keep what is wrong with it."""
        told = [f"{row.source}:{row.line}: {problem}" for problem in problems]
        if self.dropped is not None:
            self.dropped.append(replace(row, problem="; ".join(problems)))
            self.examples += told[: _EXAMPLES - len(self.examples)]
            return
        self.refused = True
        for each in told:
            self.add(each)

    def take(self, others: "Problems") -> None:
        """Keep the problems of a part of the source."""
        self.first += others.first[: SHOWN - len(self.first)]
        self.count += others.count

    def include(self, error: UserError) -> None:
        """Keep the problems of an error, and go on."""
        for problem in error.problems:
            self.add(problem)

    def check(self, *advice: str) -> None:
        """Do nothing if there are none.

        Args:
            *advice: What else the user can do, said after the problems.

        Raises:
            UserError: With the problems, how many more there are, and the advice.
        """
        if self.count:
            more = self.count - len(self.first)
            raise UserError(*self.first, *([f"and {more:,} more"] if more else []), *advice)

    def check_rows(self) -> None:
        """As `check`; where rows might have been dropped, say by which setting.

        Raises:
            UserError: As of `check`.
        """
        way_out = "or set check.bad_rows=drop to leave such rows out and count them"
        self.check(*([way_out] if self.refused else []))


@dataclass(frozen=True)
class NoValue:
    """A cell without a value: what it shows instead, and what that is, in words."""

    text: str
    what: str

    def __repr__(self) -> str:
        return printable(self.text)


def shown(value: Any) -> str:
    """A value as a message can hold it: short, one line, printable on any terminal."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return _REPR.repr(value)


def printable(text: str) -> str:
    """Text for one line of any terminal or file: lone surrogates and control characters escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


def excerpt(text: str) -> str:
    """The beginning of a text, as a dropped row keeps it."""
    return printable(text[:_DROPPED_TEXT])


def type_name(value: Any) -> str:
    """What a value is, in words: ``a number``, ``a list``."""
    if isinstance(value, NoValue):
        return value.what
    return _KINDS.get(type(value), type(value).__name__)


def listed(names: Iterable[str]) -> str:
    """Names in a row; of many, the first."""
    names = [printable(name) for name in names]
    text = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:_LISTED])
    return (text + ", …" if len(names) > _LISTED else text) or "nothing"


def meant(name: str, there: Iterable[str], otherwise: str) -> str:
    """Say which of the names that are there is meant; if none is near, say the other thing."""
    close = difflib.get_close_matches(name, [printable(each) for each in there], n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise
