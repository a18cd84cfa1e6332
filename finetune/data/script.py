"""Training rows and evaluation sets in the other script.

Which rows are converted is decided by a hash of seed and row id (of a copy, its original's), so
that a run that is repeated, or goes on, converts the same. A text whose conversion does not come
back to itself (punctuation, case, width and variants of characters apart) is one that OpenCC could
not read for certain: such rows stay as they are where training sees both scripts, are never
crossed, and are told.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from finetune.data.folding import folded
from finetune.data.terms import around, decided, read_dictionary, swapped
from finetune.disk import Spilled
from finetune.inference.script import Convert, converter, is_traditional, script_of
from finetune.records import COPY, AnyRow, Pair, Scored
from finetune.script import BACK, BOTH, KEEP, OpenCC, is_mixed, share
from finetune.sets import AnySet, EvaluationSet, ScoredSet

Row = TypeVar("Row", bound=AnyRow)

NO_RETURN = "round trip does not return"
CROSSED = "crossed"  # a set whose queries alone are converted
_SAMPLE = 2_000  # texts that tell the script of a set
# Share of the rarer script above which a set is converted into its own, too. Questions in another
# script than their passages lose 6 points (docs/scripts.md): so few of them, a third of a point.
_MIXED = 0.05


@dataclass(frozen=True)
class Way:
    """A conversion, as OpenCC calls it, and the one back."""

    name: str
    convert: Convert
    back: Convert

    def returns(self, text: str) -> bool:
        """Say whether a round trip, where there is any, gives the text again.

        Another spelling of the same word (臺灣 for 台灣) is the same text: there it was read right.
        """
        made = self.convert(text)
        return made == text or folded(self.back(made)) == folded(text)


@dataclass(frozen=True)
class Scripts:
    """The ways between the scripts."""

    to_traditional: Way
    to_simplified: Way

    @classmethod
    def of(cls, script: str, opencc: OpenCC, dictionary: Path | None) -> "Scripts":
        """Return the ways that the settings name.

        Args:
            script: ``s2hk`` and the like choose Traditional; others leave it to ``opencc``.
            opencc: Settings.
            dictionary: Where the user's dictionary lies.

        Raises:
            UserError: The dictionary cannot be read.
        """
        there = script if script in BACK else opencc.traditional
        back = script if script == "t2s" else BACK[there]
        words = read_dictionary(dictionary) if dictionary else {}
        without = decided(words, opencc.protect)
        given = {word: value for word, value in words.items() if word not in without}
        turned = swapped(given)
        if script == "t2s":
            given, turned = turned, given
        to_traditional = around(converter(there), opencc.protect, given)
        to_simplified = around(converter(back), opencc.protect, turned)
        return cls(
            Way(there, to_traditional, to_simplified), Way(back, to_simplified, to_traditional)
        )

    @property
    def converts(self) -> dict[str, Convert]:
        """What puts texts into each script, by its name."""
        return {
            "simplified": self.to_simplified.convert,
            "traditional": self.to_traditional.convert,
        }

    def other(self, *texts: str) -> Way:
        """The way into the script that texts are not in."""
        return self.to_simplified if is_traditional(*texts) else self.to_traditional

    def way(self, script: str, row: AnyRow) -> Way:
        """The way of a training row under a setting of ``script``."""
        if script in BACK:
            return self.to_traditional
        if script == "t2s":
            return self.to_simplified
        keep, texts = converter(KEEP), [text for _, text in row.prompted]
        return Way(KEEP, keep, keep) if script == KEEP else self.other(*texts)


@dataclass(frozen=True)
class Rewritten:
    """What training rows became.

    Attributes:
        rows: To train on.
        known: Pairs that are not trained on, which tell that a text answers a query in either
            script.
        counts: ``rows`` read, ``converted``, ``crossed`` (of those), ``unchanged`` (the same in
            both scripts) and `NO_RETURN`.
        lost: Of each row that does not come back its id, reason, text, and what it came back as.
    """

    rows: Sequence[AnyRow]
    known: Sequence[Pair]
    counts: Mapping[str, int]
    lost: Sequence[Mapping[str, str]]


def rewrite(
    rows: Iterable[AnyRow],
    known: Iterable[Pair],
    script: str,
    scripts: Scripts,
    *,
    crossed: float,
    encode: str,
    seed: int,
) -> Rewritten:
    """Put training rows, with their negatives, into the script that is trained on.

    Args:
        rows: Pairs, mined pairs or scored pairs.
        known: Pairs that are not trained on.
        script: As the setting of the name.
        scripts: The conversions.
        crossed: Share of converted rows of which the query (of scored pairs the first text) alone
            is converted, if they come back.
        encode: Conversion of all texts when they are encoded; training sees what it makes of them.
        seed: Of the choice of rows.
    """
    first = converter(encode)
    counts = Counter({"rows": 0, "converted": 0, CROSSED: 0, "unchanged": 0, NO_RETURN: 0})
    made: Spilled[AnyRow] | None = None
    answers = Spilled(Pair)
    lost: list[Mapping[str, str]] = []
    for row in (_converted(row, first) for row in rows):
        counts["rows"] += 1
        way = scripts.way(script, row)
        broken = next((text for _, text in row.prompted if not way.returns(text)), None)
        if broken is not None:
            counts[NO_RETURN] += 1
            lost.append({"id": row.id, "reason": NO_RETURN, "text": broken,
                         "back": way.back(way.convert(broken))})  # fmt: skip
        stays = broken is not None and is_mixed(script)
        across = crossed if broken is None else 0.0
        other = row if stays else _other(row, script, way, across, seed, counts)
        versions = [row, other] if script == BOTH and other != row else [other]
        if made is None:
            made = Spilled(type(row))
        made.extend(versions)
        answers.extend(_answers(row, versions, way, script, crossed))
    for pair in (_converted(pair, first) for pair in known):
        answers.extend(_answers(pair, [], scripts.way(script, pair), script, crossed))
    return Rewritten(() if made is None else made, answers, dict(counts), lost)


def convert_set(each: AnySet, convert: Convert, *, queries_alone: bool = False) -> AnySet:
    """The set with its texts converted, or its queries (of scored pairs the first texts) alone."""
    if isinstance(each, ScoredSet):
        pairs = (_converted(pair, convert, query_alone=queries_alone) for pair in each.pairs)
        return replace(each, pairs=tuple(pairs))
    corpus = each.corpus if queries_alone else _mapped(each.corpus, convert)
    return replace(each, queries=_mapped(each.queries, convert), corpus=corpus)


def in_scripts(each: AnySet, scripts: Scripts) -> list[AnySet]:
    """The set crossed, and wholly in the other script; of a mixed set wholly in its own, too.

    None of a set whose queries and passages differ in script already, or that is the same in both.
    """
    queries, passages = (texts[:: max(1, len(texts) // _SAMPLE)] for texts in _sides(each))
    if is_traditional(*queries) != is_traditional(*passages):
        return []
    own, other = sorted(scripts.converts, reverse=is_traditional(*passages))
    mixed = _is_mixed(queries) or _is_mixed(passages)
    uniform = convert_set(each, scripts.converts[own]) if mixed else each
    crossed = convert_set(uniform, scripts.converts[other], queries_alone=True)
    if crossed == uniform:
        return []
    return [
        replace(crossed, name=f"{each.name}+{CROSSED}"),
        replace(convert_set(each, scripts.converts[other]), name=f"{each.name}+{other}"),
        *([replace(uniform, name=f"{each.name}+{own}")] if mixed else []),
    ]


def asked_twice(each: AnySet, scripts: Scripts) -> AnySet:
    """The set with every question (scored pair) in the other script too, where it comes back.

    The passages stay as they are.
    """
    if isinstance(each, ScoredSet):
        pairs = []
        for pair in each.pairs:
            way = scripts.other(pair.a, pair.b)
            other = _converted(pair, way.convert)
            if other != pair and way.returns(pair.a) and way.returns(pair.b):
                pairs.append(replace(other, id=_other_id(pair.id)))
        return replace(each, pairs=(*each.pairs, *pairs))
    queries, qrels = dict(each.queries), dict(each.qrels)
    for key, text in each.queries.items():
        way = scripts.other(text)
        if way.convert(text) != text and way.returns(text):
            queries[_other_id(key)] = way.convert(text)
            qrels[_other_id(key)] = each.qrels.get(key, {})
    return replace(each, queries=queries, qrels=qrels)


def _other(row: Row, script: str, way: Way, crossed: float, seed: int, counts: Counter[str]) -> Row:
    """The row in the other script, or as it is where it is not chosen."""
    part, original = share(script), row.id.removesuffix(COPY)
    if part is not None and _chance(f"{seed}:{original}") >= part:
        return row
    cross = _chance(f"{seed}:{original}:{CROSSED}") < crossed
    other = _converted(row, way.convert, query_alone=cross)
    if other == row:
        counts["unchanged"] += script != KEEP
        return row
    counts["converted"] += 1
    counts[CROSSED] += cross
    key = _other_id(row.id) if script == BOTH else row.id
    name = f"{way.name}-{CROSSED}" if cross else way.name
    return replace(other, id=key, source=f"{row.source}+{name}")


def _answers(
    row: AnyRow, versions: Sequence[AnyRow], way: Way, script: str, crossed: float
) -> Iterator[Pair]:
    """Yield what tells that a text answers a query in either script, but for what is trained on."""
    if isinstance(row, Scored):
        return
    trained = {(each.query, each.positive) for each in versions if not isinstance(each, Scored)}

    def forms(text: str) -> list[str]:
        both = is_mixed(script) or crossed
        return list(dict.fromkeys([*([text] if both else []), way.convert(text)]))

    for query in forms(row.query):
        for positive in forms(row.positive):
            if (query, positive) not in trained:
                yield Pair(row.id, query, positive, row.source)


def _converted(row: Row, convert: Convert, *, query_alone: bool = False) -> Row:
    rest: Callable[[str], str] = converter(KEEP) if query_alone else convert
    if isinstance(row, Scored):
        return replace(row, a=convert(row.a), b=rest(row.b))
    return replace(row, query=convert(row.query), positive=rest(row.positive),
                   negatives=tuple(map(rest, row.negatives)))  # fmt: skip


def _is_mixed(texts: Sequence[str]) -> bool:
    """Say whether texts are in both scripts; those that read as both do not tell."""
    count = Counter(map(script_of, texts))
    rarer, more = sorted((count["simplified"], count["traditional"]))
    return rarer > _MIXED * (rarer + more)


def _sides(each: AnySet) -> tuple[list[str], list[str]]:
    if isinstance(each, EvaluationSet):
        return list(each.queries.values()), list(each.corpus.values())
    return [pair.a for pair in each.pairs], [pair.b for pair in each.pairs]


def _mapped(texts: Mapping[str, str], convert: Convert) -> dict[str, str]:
    return {key: convert(text) for key, text in texts.items()}


def _other_id(key: str) -> str:
    return f"{key}+script"


def _chance(text: str) -> float:
    """A number in [0, 1) that the text decides."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
