"""What passes between stages: frozen rows, kept as UTF-8 JSON Lines with readable Chinese."""

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

Row = TypeVar("Row")
# The texts that make up a question: a query, or both sides of a scored pair.
Question = tuple[str, ...]
# The name of a prompt, query or passage, and a text.
Prompted = tuple[str, str]
_PAIRS = "pairs.jsonl"
_NO_LETTERS = re.compile(r"[\W_]+")  # \w is the categories L and N, and the underscore
_CANDIDATES = "candidates.json"


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
    """A row that was left out: why, where it came from, and what it collided with."""

    reason: str
    source: str
    line: int
    text: str
    collided_with: str = ""


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


@dataclass(frozen=True)
class EvaluationSet:
    """A BEIR-shaped set: texts by id, and relevance by query id and document id."""

    main: ClassVar[str] = "ndcg@10"  # the metric that decides

    name: str
    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    @property
    def questions(self) -> dict[str, Question]:
        """What is asked, by id."""
        return {key: (text,) for key, text in self.queries.items()}

    @property
    def prompted(self) -> list[Prompted]:
        """Every text of the set, with the prompt under which it is encoded."""
        queries, passages = self.queries.values(), self.corpus.values()
        return [*(("query", text) for text in queries), *(("passage", text) for text in passages)]

    def only(self, queries: Collection[str]) -> "EvaluationSet":
        """Return the set with these queries alone, in the set's order."""
        kept = {key: text for key, text in self.queries.items() if key in queries}
        qrels = {key: self.qrels[key] for key in kept if key in self.qrels}
        return dataclasses.replace(self, queries=kept, qrels=qrels)


@dataclass(frozen=True)
class ScoredSet:
    """An STS-shaped set: pairs of texts, each with how alike they are."""

    main: ClassVar[str] = "spearman"  # the metric that decides

    name: str
    pairs: tuple[Scored, ...]

    @property
    def questions(self) -> dict[str, Question]:
        """What is asked, by id."""
        return {pair.id: (pair.a, pair.b) for pair in self.pairs}

    @property
    def prompted(self) -> list[Prompted]:
        """Every text of the set, with the prompt under which it is encoded."""
        return [each for pair in self.pairs for each in pair.prompted]

    def only(self, ids: Collection[str]) -> "ScoredSet":
        """Return the set with these pairs alone, in the set's order."""
        return dataclasses.replace(self, pairs=tuple(p for p in self.pairs if p.id in ids))


@dataclass(frozen=True)
class RerankingSet(EvaluationSet):
    """A retrieval set in which each query ranks its own candidates alone, given by their ids."""

    main: ClassVar[str] = "map"  # the metric that decides

    candidates: Mapping[str, tuple[str, ...]]

    def only(self, queries: Collection[str]) -> "RerankingSet":
        """Return the set with these queries and their candidates alone, in the set's order."""
        kept = {key: names for key, names in self.candidates.items() if key in queries}
        wanted = {name for names in kept.values() for name in names}
        return dataclasses.replace(
            self,
            queries={key: self.queries[key] for key in kept},
            corpus={key: text for key, text in self.corpus.items() if key in wanted},
            qrels={key: self.qrels[key] for key in kept},
            candidates=kept,
        )


AnySet = EvaluationSet | ScoredSet
AnyRow = Pair | Mined | Scored


def _prompted(query: str, *passages: str) -> list[Prompted]:
    return [("query", query), *(("passage", text) for text in passages)]


def half(query_id: str) -> str:
    """The half that a query belongs to, for good: ``select`` or ``report``, by a hash of its id."""
    digest = hashlib.sha256(query_id.encode("utf-8")).digest()
    return "report" if digest[0] % 2 else "select"


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


def write_set(folder: Path, evaluation_set: AnySet) -> None:
    """Write ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``, or ``pairs.jsonl``.

    Of a reranking set ``candidates.json`` too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(evaluation_set, ScoredSet):
        write_jsonl(folder / _PAIRS, evaluation_set.pairs)
        return
    for name in ("corpus", "queries"):
        texts: Mapping[str, str] = getattr(evaluation_set, name)
        rows = ({"id": key, "text": text} for key, text in texts.items())
        write_jsonl(folder / f"{name}.jsonl", rows)
    lines = ["query-id\tcorpus-id\tscore"]
    for query, relevance in evaluation_set.qrels.items():
        lines += [f"{query}\t{document}\t{score}" for document, score in relevance.items()]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if isinstance(evaluation_set, RerankingSet):
        write_json(folder / _CANDIDATES, evaluation_set.candidates)


def digest(evaluation_set: AnySet) -> str:
    """SHA-256 of all that a set holds but its name: texts, ids, and what is relevant or alike."""
    content = dataclasses.asdict(dataclasses.replace(evaluation_set, name=""))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def read_set(folder: Path) -> AnySet:
    """Read a set that `write_set` wrote. User folders go through `finetune.data.beir`."""
    if (folder / _PAIRS).is_file():
        return ScoredSet(folder.name, tuple(read_jsonl(folder / _PAIRS, Scored)))
    texts = {
        name: {row["id"]: row["text"] for row in read_dicts(folder / f"{name}.jsonl")}
        for name in ("corpus", "queries")
    }
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        qrels.setdefault(query, {})[document] = int(score)
    found = folder.name, texts["queries"], texts["corpus"], qrels
    if (folder / _CANDIDATES).is_file():
        names = {key: tuple(each) for key, each in read_json(folder / _CANDIDATES).items()}
        return RerankingSet(*found, names)
    return EvaluationSet(*found)


def only_set(folder: Path) -> AnySet:
    """Read the evaluation set that lies in a folder alone."""
    return read_set(min(path for path in folder.iterdir() if path.is_dir()))


def read_known(folder: Path) -> list[Pair]:
    """Read the pairs of a step that are not trained on and still tell what answers a query."""
    path = folder / "known.jsonl"  # a step that knows none writes none
    return list(read_jsonl(path, Pair)) if path.is_file() else []


def normalised(text: str) -> str:
    """The form in which texts are compared: NFKC, case folded, letters and digits only."""
    return _NO_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold())
