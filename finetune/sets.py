"""Evaluation sets: what is asked, of what, and what is right; read and written as folders."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from finetune.records import (
    Prompted,
    Question,
    Scored,
    read_dicts,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)

_PAIRS = "pairs.jsonl"
_CANDIDATES = "candidates.json"


@dataclass(frozen=True)
class EvaluationSet:
    """A BEIR-shaped set: texts by id, and relevance by query id and document id."""

    main: ClassVar[str] = "ndcg@10"  # the metric that decides
    counted: ClassVar[str] = "queries"  # what metrics are means over

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
    counted: ClassVar[str] = "pairs"  # what metrics are means over

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


class Halves(NamedTuple):
    """What evaluates a domain.

    Attributes:
        select: Sets that training may look at.
        report: Sets for the final scores.
    """

    select: tuple[AnySet, ...]
    report: tuple[AnySet, ...]


def half(query_id: str) -> str:
    """The half that a query belongs to, for good: ``select`` or ``report``, by a hash of its id."""
    digest = hashlib.sha256(query_id.encode("utf-8")).digest()
    return "report" if digest[0] % 2 else "select"


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


def read_sets(folder: Path) -> list[AnySet]:
    """Read the evaluation sets of a folder, by their names."""
    return [read_set(each) for each in sorted(folder.iterdir())]


def read_halves(folder: Path) -> Halves:
    """Read what `finetune.data.parts.write_halves` wrote.

    A corpus that was written once is in memory once.
    """
    corpora: dict[int, Mapping[str, str]] = {}
    halves: dict[str, list[AnySet]] = {}
    for part in Halves._fields:
        halves[part] = read_sets(folder / part)
        for place, each in enumerate(halves[part]):
            if isinstance(each, EvaluationSet):
                file = (folder / part / each.name / "corpus.jsonl").stat().st_ino
                shared = corpora.setdefault(file, each.corpus)
                halves[part][place] = dataclasses.replace(each, corpus=shared)
    return Halves(*map(tuple, halves.values()))


def all_sets(*folders: Path | None) -> tuple[AnySet, ...]:
    """Read the sets of both halves of folders; None is that of a step that the plan lacks."""
    return tuple(
        each for folder in folders if folder for half in read_halves(folder) for each in half
    )


def only_set(folder: Path) -> AnySet:
    """Read the evaluation set that lies in a folder alone."""
    return read_set(min(path for path in folder.iterdir() if path.is_dir()))
