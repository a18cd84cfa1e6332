"""What passes between stages: frozen rows, kept as UTF-8 JSON Lines with readable Chinese."""

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Pair:
    """A query and a text that answers it; ``source`` names where the row came from."""

    id: str
    query: str
    positive: str
    source: str
    negatives: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Scored:
    """Two texts and how alike they are (any scale; 0/1 for labels)."""

    id: str
    a: str
    b: str
    score: float
    source: str


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: why, where it came from, and what it collided with."""

    reason: str
    source: str
    line: int
    text: str
    collided_with: str = ""


@dataclass(frozen=True)
class Score:
    """One measured value of one artifact on one evaluation set (one row of ``report.json``).

    ``value``, ``delta`` and the interval are fractions. ``delta`` is the difference to the base
    model on the same queries and ``p_value`` its significance; both are None for the base.
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


@dataclass(frozen=True)
class EvaluationSet:
    """A BEIR-shaped set: texts by id, and relevance by query id and document id."""

    name: str
    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def only(self, queries: Collection[str]) -> "EvaluationSet":
        """Return the set with these queries alone, in the set's order."""
        kept = {key: text for key, text in self.queries.items() if key in queries}
        qrels = {key: self.qrels[key] for key in kept if key in self.qrels}
        return dataclasses.replace(self, queries=kept, qrels=qrels)


def half(query_id: str) -> str:
    """The half that a query belongs to, for good: ``select`` or ``report``, by a hash of its id."""
    digest = hashlib.sha256(query_id.encode("utf-8")).digest()
    return "report" if digest[0] % 2 else "select"


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows (dataclasses or plain dicts), one JSON object a line; return how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            content = row if isinstance(row, dict) else dataclasses.asdict(row)
            file.write(json.dumps(content, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, row: type[Row]) -> Iterator[Row]:
    """Read rows that `write_jsonl` wrote. User files go through `finetune.data.load` instead."""
    for content in read_dicts(path):
        yield row(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


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


def write_set(folder: Path, evaluation_set: EvaluationSet) -> None:
    """Write ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("corpus", "queries"):
        texts: Mapping[str, str] = getattr(evaluation_set, name)
        rows = ({"id": key, "text": text} for key, text in texts.items())
        write_jsonl(folder / f"{name}.jsonl", rows)
    lines = ["query-id\tcorpus-id\tscore"]
    for query, relevance in evaluation_set.qrels.items():
        lines += [f"{query}\t{document}\t{score}" for document, score in relevance.items()]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_set(folder: Path) -> EvaluationSet:
    """Read a set that `write_set` wrote. User folders go through `finetune.data.load`."""
    texts = {
        name: {row["id"]: row["text"] for row in read_dicts(folder / f"{name}.jsonl")}
        for name in ("corpus", "queries")
    }
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        qrels.setdefault(query, {})[document] = int(score)
    return EvaluationSet(folder.name, texts["queries"], texts["corpus"], qrels)


def only_set(folder: Path) -> EvaluationSet:
    """Read the evaluation set that lies in a folder alone."""
    return read_set(min(path for path in folder.iterdir() if path.is_dir()))


def read_known(folder: Path) -> list[Pair]:
    """Read the pairs of a step that are not trained on and still tell what answers a query."""
    path = folder / "known.jsonl"  # a step that knows none writes none
    return list(read_jsonl(path, Pair)) if path.is_file() else []


def normalised(text: str) -> str:
    """The form in which texts are compared: NFKC, case folded, letters and digits only."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if unicodedata.category(char)[0] in "LN")
