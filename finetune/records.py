"""What passes between stages: frozen rows, kept as UTF-8 JSON Lines with readable Chinese."""

import dataclasses
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
# The texts that make up a question: a query, or both sides of a scored pair.
Question = tuple[str, ...]
COPY = "+copy"  # behind the id of a row whose query alone is another's
# The name of a prompt, query or passage, and a text.
Prompted = tuple[str, str]
_NO_LETTERS = re.compile(r"[\W_]+")  # \w is the categories L and N, and the underscore
# Signs that make another number or name: 1.5, 3-5 and 2/3, -5 and ≥5, 50% and 5°, c++ and c#.
_SIGNS = re.compile(r"[.~/:∶⁄+×÷*=±<>≤≥%‰°#\-–—−〜]")
_MEANT = (
    r"(?<=\d)[.~/:∶⁄+×÷*=\-–—−〜](?=[-−±]?\d)|(?<![a-z\d–—-])[-−](?=\d)|[±<>≤≥](?=\d)"
    r"|(?:(?<=\d)|(?<=\d\s))[%‰°]|(?<=[a-z])[+#]|(?<=[a-z]\+)\+"
)
_MEANINGLESS = re.compile(rf"[\W_](?<!{_MEANT})")
_ONE_SIGN = str.maketrans("~–—−〜∶⁄", "-----:/")
# What stands before the number of an article that says something.
_NUMBER = r"第\s?[一二三四五六七八九十百千零〇两兩\d]+\s?[条條]"
_LAW = re.compile(f"(?!{_NUMBER})[^。；;！？!?：:\\n]{{1,60}}?(?={_NUMBER}.{{6}})", re.DOTALL)


@dataclass(frozen=True)
class Pair:
    """A query and a text that answers it; ``source`` names where the row came from."""

    id: str
    query: str
    positive: str
    source: str
    negatives: tuple[str, ...] = ()

    @property
    def questions(self) -> tuple[Question, ...]:
        """What an evaluation set must not ask, so that this pair may be trained on."""
        return (self.query,), (self.query, self.positive)

    @property
    def prompted(self) -> list[Prompted]:
        """Its texts, with the prompts under which they are encoded."""
        return _prompted(self.query, self.positive, *self.negatives)


@dataclass(frozen=True)
class Passage:
    """A piece of a document, under the document's title and the heading over it ("" for none).

    ``label`` is what a corpus writes before the text (``劳动法 第三条：``), "" for none.
    """

    id: str
    title: str
    heading: str
    text: str
    label: str = ""

    @property
    def indexed(self) -> str:
        """The passage as the corpus holds it."""
        return self.label + self.text


@dataclass(frozen=True)
class Mined:
    """A pair with hard negatives, and the miner's cosine of query with positive, then with each."""

    id: str
    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: tuple[float, ...]
    source: str

    @property
    def prompted(self) -> list[Prompted]:
        """Its texts, with the prompts under which they are encoded."""
        return _prompted(self.query, self.positive, *self.negatives)


@dataclass(frozen=True)
class Scored:
    """Two texts and how alike they are (any scale; 0/1 for labels)."""

    id: str
    a: str
    b: str
    score: float
    source: str

    @property
    def questions(self) -> tuple[Question, ...]:
        """What an evaluation set must not ask, so that this pair may be trained on."""
        return (self.a,), (self.b,), (self.a, self.b)

    @property
    def prompted(self) -> list[Prompted]:
        """Its texts, with the prompts under which they are encoded: neither answers the other."""
        return [("query", self.a), ("query", self.b)]


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: why, where it came from, what it collided with, what is wrong."""

    reason: str
    source: str
    line: int
    text: str
    collided_with: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Score:
    """One measured value of one artifact on one evaluation set (one row of ``report.json``).

    ``value``, ``delta`` and their intervals are fractions. ``delta`` is the difference to the base
    model on the same queries, ``delta_low`` and ``delta_high`` its interval and ``p_value`` its
    significance; ``p_holm`` is that p-value adjusted for the number of sets and slices that the
    artifact is compared on. All are None for the base.
    """

    artifact: str
    set: str
    metric: str
    value: float
    n: int
    ci_low: float
    ci_high: float
    delta: float | None = None
    p_value: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None
    p_holm: float | None = None


AnyRow = Pair | Mined | Scored
ROWS: Mapping[str, type[AnyRow]] = {"pairs": Pair, "mined": Mined, "scored": Scored}


def _prompted(query: str, *passages: str) -> list[Prompted]:
    return [("query", query), *(("passage", text) for text in passages)]


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows (dataclasses or plain dicts), one JSON object a line; return how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(to_line(row))
            count += 1
    return count


def to_line(row: Any) -> str:
    """A row (a dataclass or a plain dict) as a line of JSON."""
    content = row if isinstance(row, dict) else dataclasses.asdict(row)
    return json.dumps(content, ensure_ascii=False) + "\n"


def read_jsonl(path: Path, row: type[Row]) -> Iterator[Row]:
    """Read rows that `write_jsonl` wrote. User files go through `finetune.data.load` instead."""
    for content in read_dicts(path):
        yield as_row(row, content)


def as_row(row: type[Row], content: Mapping[str, Any]) -> Row:
    """Make a row of a line that `write_jsonl` wrote."""
    return row(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


def read_dicts(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSON Lines file that the project wrote itself."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_json(path: Path) -> Any:
    """Read a JSON file that the project wrote itself."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with readable Chinese; a kill leaves the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def read_known(folder: Path) -> list[Pair]:
    """Read the pairs of a step that are not trained on and still tell what answers a query."""
    path = folder / "known.jsonl"  # a step that knows none writes none
    return list(read_jsonl(path, Pair)) if path.is_file() else []


def tally(names: Iterable[str]) -> dict[str, int]:
    """Count each name; sorted by them."""
    return dict(sorted(Counter(names).items()))


def normalised(text: str) -> str:
    """The form in which texts are compared: NFKC, case folded, letters and digits only.

    A sign that makes another number or name stays (1.5 is not 15, nor -5 5, 50% 50 or C++ C).
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    if _SIGNS.search(plain):
        return _MEANINGLESS.sub("", plain).translate(_ONE_SIGN)
    return _NO_LETTERS.sub("", plain)


def untitled(text: str) -> str:
    """A passage without the name of the law, where it is an article with its number.

    One law goes by several names (《民法典》第八条, 中华人民共和国民法典第八条). What follows the
    name, the number included, tells whether two passages are one. Of questions, in which the name
    may be all that differs, it must not be taken. A text without one is returned itself.
    """
    found = _LAW.match(text)
    return text[found.end() :] if found else text


def passage(text: str) -> str:
    """The form in which answers are compared: normalised, whatever the law is called."""
    return normalised(untitled(text))
