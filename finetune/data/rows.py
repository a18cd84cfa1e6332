"""Turn rows into pairs, and keep account of those that become none."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.config.choices import Duplicates, Kind
from finetune.data import clean, folding
from finetune.data.clean import BadRow
from finetune.data.joined import Joined
from finetune.data.loaded import sides
from finetune.data.problems import Problems, excerpt, listed, shown
from finetune.data.tables import Table
from finetune.data.values import CLEANERS, is_nothing, some_text
from finetune.disk import Spilled
from finetune.records import Dropped, Pair, Scored

# Why a row is no pair of its own, by the form in which it equals an earlier one.
DUPLICATE = {
    Duplicates.exact: "duplicate",
    Duplicates.punctuation: "duplicate but for punctuation, case or width",
    Duplicates.script: "duplicate but for the script",
}
IDENTICAL = "identical sides"
OTHER_SCORE = "another score for the same texts"
MERGED = "same pair, its negatives joined to the earlier row's"
LABEL_0 = "label 0: not a pair"
CONFLICT = "conflicting labels"


@dataclass(frozen=True)
class Form:
    """What a row must hold, and what it becomes.

    Attributes:
        required: Fields that every row has; the first two are its texts.
        optional: Fields that it may have.
        symmetric: A row with the texts exchanged is the same row, and equal texts are no mistake.
        wrong: Yields what is wrong with cleaned values, given the second text's comparable form.
        kind: What a row becomes.
        make: It, of an id, a source and cleaned values.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    symmetric: bool
    wrong: Callable[[Mapping[str, Any], str], Iterator[BadRow]]
    kind: type[Pair] | type[Scored]
    make: Callable[[str, str, Mapping[str, Any]], Pair | Scored]

    @property
    def fields(self) -> tuple[str, ...]:
        """All that ``domain.columns`` may map."""
        return (*self.required, *self.optional)


class Collector:
    """The pairs of one source: its rows = pairs + dropped, unless `check` raises.

    Args:
        form: What its rows hold.
        table: The source.
        columns: Its column for each of the form's fields that it has.
        duplicates: How alike pairs are dropped as one.
        problems: Where problems of the file were and will be collected, and whether rows that
            cannot be used are among them or dropped.
        dropped: Where dropped rows were and will be put.
    """

    def __init__(
        self,
        form: Form,
        table: Table,
        columns: Mapping[str, str],
        duplicates: Duplicates,
        problems: Problems,
        dropped: Spilled[Dropped],
    ) -> None:
        self.form = form
        self.table = table
        self.columns = columns
        self.duplicates = duplicates
        self.problems = problems
        self.read = 0
        self.pairs: Spilled[Pair | Scored] = Spilled(form.kind)
        self.dropped = dropped
        self.found = set() if table.ragged else set(columns)
        self.lines: dict[str, int] = {}
        self.changed: Counter[str] = Counter()
        self._seen: dict[bytes, int] = {}  # place in `pairs` of the first of its kind
        self._refuted: dict[bytes, int] = {}  # line of the first that is labelled 0
        self._joined = Joined()

    def add(self, line: int, row: Mapping[str, Any]) -> None:
        """Keep, drop or refuse one row; one with a list of positives is a row for each."""
        column = self.columns[self.form.required[1]]
        several = row.get(column)
        if self.form.kind is Pair and isinstance(several, list) and several:
            for number, each in enumerate(several, 1):
                self._add(line, {**row, column: each}, f"-{number}" if len(several) > 1 else "")
        else:
            self._add(line, row)

    def _add(self, line: int, row: Mapping[str, Any], suffix: str = "") -> None:
        self.read += 1
        required = [self.columns[name] for name in self.form.required]
        if missing := [column for column in required if column not in row]:
            self._refuse(line, row, [
                BadRow("no column", f"no {shown(column)}; found {listed(row)}; expected it in "
                       "every row: add it, or delete the row")
                for column in missing
            ])  # fmt: skip
            return
        values, bad = self._values(row)
        same = [] if bad else [clean.comparable(values[name]) for name in self.form.required[:2]]
        if not (bad or self.form.symmetric) and same[0] == same[1]:
            # It teaches nothing, and is nobody's mistake.
            self._drop(IDENTICAL, line, row)
            return
        bad = bad or list(self.form.wrong(values, same[1]))
        if bad:
            self._refuse(line, row, bad)
            return
        name = values.get("id", f"{self.table.stem}-{line}") + suffix
        pair = self.form.make(name, values.get("source", self.table.stem), values)
        if values.get("label") == 0:
            self._refuted.setdefault(_unordered(pair), line)
            self._drop(LABEL_0, line, row)
            return
        mark = self._mark(pair, self.duplicates)
        if mark in self._seen:
            first = self.pairs[self._seen[mark]]
            joined = self._joined.add(self._seen[mark], first, pair)
            self._drop(MERGED if joined else _again(first, pair), line, row, self._place(first.id))
        elif pair.id in self.lines:
            self._refuse(line, row, [self._same_id(pair.id)], self._place(pair.id))
        else:
            self._seen[mark] = len(self.pairs)
            self.lines[pair.id] = line
            self.pairs.append(pair)

    def check(self) -> None:
        """Drop pairs that are labelled 0 elsewhere; end if a row is neither kept nor dropped.

        Raises:
            UserError: With every problem found.
        """
        self.problems.check_rows()
        if self._refuted or self._joined:
            pairs, self.pairs = self.pairs, Spilled(self.form.kind)
            for place, pair in enumerate(pairs):
                self._keep_unless_refuted(self._joined.whole(place, pair))

    def _keep_unless_refuted(self, pair: Pair | Scored) -> None:
        other = self._refuted.get(_unordered(pair))
        if other is None:
            self.pairs.append(pair)
            return
        line, text = self.lines.pop(pair.id), excerpt(sides(pair)[0])
        place = f"{self.table.name}:{other}"
        self.dropped.append(Dropped(CONFLICT, self.table.name, line, text, place))

    def _mark(self, pair: Pair | Scored, kind: Duplicates) -> bytes:
        """What pairs share that are dropped as one; of its own where none are."""
        if kind is Duplicates.none:
            return clean.fingerprint(str(len(self.pairs)))
        forms = [folding.KEYS[kind](text) for text in sides(pair)]
        return clean.fingerprint(*(sorted(forms) if self.form.symmetric else forms))

    def _values(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[BadRow]]:
        """Clean each field; say what is wrong with every one that is bad."""
        values: dict[str, Any] = {}
        bad = []
        for name, column in self.columns.items():
            value = row.get(column)
            if column in row:
                self.found.add(name)
            nothing = value in (None, "") if name == "label" else is_nothing(value)
            if name in self.form.optional and nothing:
                continue
            try:
                values[name] = CLEANERS.get(name, some_text)(column, value, self.changed)
            except BadRow as error:
                bad.append(error)
        return values, bad

    def _same_id(self, pair_id: str) -> BadRow:
        return BadRow(
            "duplicate id",
            f"id {shown(pair_id)} is that of line {self.lines[pair_id]} too; expected ids that "
            "occur once: change one, or leave the column alone with domain.columns.id=''",
        )

    def _place(self, pair_id: str) -> str:
        return f"{self.table.name}:{self.lines[pair_id]}"

    def _refuse(
        self, line: int, row: Mapping[str, Any], bad: list[BadRow], collided_with: str = ""
    ) -> None:
        self.problems.refuse(self._dropped(bad[0].reason, line, row, collided_with), *map(str, bad))

    def _drop(
        self, reason: str, line: int, row: Mapping[str, Any], collided_with: str = ""
    ) -> None:
        self.dropped.append(self._dropped(reason, line, row, collided_with))

    def _dropped(
        self, reason: str, line: int, row: Mapping[str, Any], collided_with: str
    ) -> Dropped:
        first = row.get(self.columns[self.form.required[0]])
        text = excerpt(first) if isinstance(first, str) else shown(first)
        return Dropped(reason, self.table.name, line, text, collided_with)


def _again(first: Pair | Scored, pair: Pair | Scored) -> str:
    """Why a pair is dropped that is the first again."""
    if isinstance(first, Scored) and isinstance(pair, Scored) and first.score != pair.score:
        return OTHER_SCORE
    kinds = (folding.alike(each, sides(pair)) for each in (sides(first), sides(first)[::-1]))
    return next(DUPLICATE[kind] for kind in kinds if kind is not Duplicates.none)


def _unordered(pair: Pair | Scored) -> bytes:
    """What a pair shares with the same texts in either order: a label says nothing of order."""
    return clean.fingerprint(*sorted(map(folding.folded, sides(pair))))


def _contradictions(values: Mapping[str, Any], positive: str) -> Iterator[BadRow]:
    for negative in values.get("negatives", ()):
        if clean.comparable(negative) == positive:
            yield BadRow(
                "negative equals positive",
                f"{shown(negative)} stands in negatives and is the positive; expected texts that "
                "do not answer the query: delete it from the list",
            )


def _pair(key: str, source: str, values: Mapping[str, Any]) -> Pair:
    return Pair(key, values["query"], values["positive"], source, values.get("negatives", ()))


def _scored(key: str, source: str, values: Mapping[str, Any]) -> Scored:
    return Scored(key, values["a"], values["b"], values["score"], source)


FORMS: Mapping[Kind, Form] = {
    Kind.pairs: Form(
        ("query", "positive"),
        ("negatives", "source", "id", "label"),
        False,
        _contradictions,
        Pair,
        _pair,
    ),  # fmt: skip
    Kind.scored: Form(
        ("a", "b", "score"), ("source", "id"), True, lambda values, b: iter(()), Scored, _scored
    ),
}
