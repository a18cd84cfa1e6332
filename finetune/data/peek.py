"""A look at texts before anything works on them: how many there are, and examples of them.

For estimates only: what is wrong with the data is the data step's to say, so whatever cannot be
read here is simply not known.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.choices import Kind, Source
from finetune.config.pairs import Domain
from finetune.data.beir import judged, kind
from finetune.data.lines import existing, objects
from finetune.data.problems import Problems
from finetune.data.sts import splits
from finetune.data.tables import open_table
from finetune.errors import UserError
from finetune.records import Pair, read_dicts, read_json
from finetune.sets import EvaluationSet, half

_SAMPLE = 256
# A larger file takes longer to read than an estimate is worth.
_CHEAP = 64 * 1024**2

Row = tuple[str, ...]  # query, positive and negatives; or one passage


@dataclass(frozen=True)
class Texts:
    """How many rows there are, and examples from all over them."""

    count: int
    sample: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Texts":
        """Count rows and keep every k-th, so that at most 256 are kept."""
        kept: list[Row] = []
        count, every = 0, 1
        for row in rows:
            if count % every == 0:
                kept.append(row)
            if len(kept) == 2 * _SAMPLE:
                kept, every = kept[::2], 2 * every
            count += 1
        return cls(count, tuple(kept[:: 1 + len(kept) // (_SAMPLE + 1)]))


@dataclass(frozen=True)
class Peek:
    """A domain's training rows and the sizes of its evaluation sets.

    Attributes:
        rows: Training rows.
        passages: The corpus of one half (both halves search the same one as a rule); of scored
            pairs the texts of the report half.
        queries: Number of queries by half, over all sets; of scored pairs none.
    """

    rows: Texts
    passages: Texts
    queries: Mapping[str, int]


def rows_of(folder: Path) -> Texts:
    """Count the training rows that a step wrote."""
    return Texts.of(map(_texts_of, read_dicts(folder / "train.jsonl")))


def look_at(folder: Path, halves: Path) -> Peek:
    """Look at what the data step wrote, and at what the sets step wrote."""
    scored = sorted((halves / "report").glob("*/pairs.jsonl"))
    if scored:
        pairs = (row for path in scored for row in read_dicts(path))
        return _scored(rows_of(folder), ((row["a"], row["b"]) for row in pairs))
    sets = read_json(folder / "summary.json")["sets"].values()
    queries = {part: sum(each[part] for each in sets) for part in ("select", "report")}
    corpus = min((halves / "select").glob("*/corpus.jsonl"))
    passages = Texts.of((row["text"],) for row in read_dicts(corpus))
    return Peek(rows_of(folder), passages, queries)


def look_at_set(folder: Path) -> Peek | None:
    """Look at an evaluation folder; None where that is not cheap, or it is none for retrieval.

    Raises:
        UserError: It cannot be read.
    """
    if kind(folder) != "beir":
        return None
    corpus = existing(folder / "corpus.jsonl")
    if corpus.stat().st_size > _CHEAP:
        return None
    asked = judged(folder)
    if len(asked) == 2:
        split = {"select": len(asked["dev"]), "report": len(asked["test"])}
    else:
        halves = [half(each) for ids in asked.values() for each in ids]
        split = {part: halves.count(part) for part in ("select", "report")}
    passages = Texts.of((str(row.get("text")),) for _, row in objects(corpus, Problems()))
    return Peek(Texts(0, ()), passages, split)


def look_for(domain: Domain, limit: int | None) -> Peek | None:
    """Look at a domain's sources; None where that is not cheap, or they cannot be read."""
    try:
        found = (
            look_at_statutes(full=domain.full)
            if domain.source is Source.statutes
            else _files(domain)
        )
    except UserError:
        return None
    if found is None or limit is None or limit >= found.rows.count:
        return found
    return Peek(Texts(limit, found.rows.sample), found.passages, found.queries)


def look_at_statutes(*, full: bool) -> Peek:
    """Look at the embedded law questions.

    Raises:
        UserError: The package with the articles is not installed.
    """
    from finetune.data import statutes

    loaded = statutes.load(full=full)
    select, report = (
        [each for each in sets if isinstance(each, EvaluationSet)]
        for sets in (loaded.select, loaded.report)
    )
    queries = {"select": sum(len(each.queries) for each in select),
               "report": sum(len(each.queries) for each in report)}  # fmt: skip
    pairs = (pair for pair in loaded.pairs if isinstance(pair, Pair))
    rows = Texts.of((pair.query, pair.positive) for pair in pairs)
    return Peek(rows, Texts.of((text,) for text in select[0].corpus.values()), queries)


def _files(domain: Domain) -> Peek | None:
    if domain.dev is None:
        return None
    scored = domain.kind is Kind.scored
    found = _look_at_scored(domain.dev) if scored else look_at_set(domain.dev)
    if found is None or domain.train is None:  # without pairs of its own, documents make them
        return found
    train = existing(Path(domain.train))
    if train.stat().st_size > _CHEAP:
        return None
    names = ("a", "b") if scored else ("query", "positive")
    one, two, source = (domain.columns.get(name, name) for name in (*names, "source"))
    wanted = [one, two, *([source] if domain.sources else [])]
    rows = ((str(row[one]), str(row[two]))
            for _, row in open_table(train, Problems()).rows(wanted)
            if one in row and two in row
            and (not domain.sources or row.get(source) in domain.sources))  # fmt: skip
    return Peek(Texts.of(rows), found.passages, found.queries)


def _look_at_scored(folder: Path) -> Peek | None:
    """Look at a similarity set: its test split, or the half of its only one."""
    if kind(folder) != "sts":
        return None
    names = splits(folder)
    file = existing(folder / f"{'test' if 'test' in names else names[0]}.jsonl")
    if file.stat().st_size > _CHEAP:
        return None
    found = _scored(Texts(0, ()), ((str(row.get("sentence1")), str(row.get("sentence2")))
                                   for _, row in objects(file, Problems())))  # fmt: skip
    if len(names) == 2:
        return found
    half_of = Texts(found.passages.count // 2, found.passages.sample)
    return Peek(found.rows, half_of, found.queries)


def _scored(rows: Texts, pairs: Iterable[Row]) -> Peek:
    texts = Texts.of((text,) for pair in pairs for text in pair)
    return Peek(rows, texts, {"select": 0, "report": 0})


def _texts_of(row: Mapping[str, Any]) -> Row:
    """The texts of a row that a step wrote: a pair with its negatives, or two scored texts."""
    first = (row["query"], row["positive"]) if "query" in row else (row["a"], row["b"])
    return (*first, *row.get("negatives", ()))
