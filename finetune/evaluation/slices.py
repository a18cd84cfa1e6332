"""Kinds of questions on which a model may fail while its mean hides it.

- ``length-…``: characters of the query, or of both texts of a pair.
- ``english-…``: percent of its letters that are Latin. Chinese models are said to degrade above 20.
- ``simplified``, ``traditional``: the script of query and answer, or of both texts of a pair;
  ``crossed`` where they differ.
- ``rare-terms``: query and answer share two characters in a row that at most 3 passages have, so
  that exact matching would find the answer.
- ``beyond-window``: an answer is longer than the model's window, taken as a character a token.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from finetune.inference.script import script_of
from finetune.sets import AnySet, EvaluationSet

FEWEST = 20  # questions in a slice; below, an interval is too wide to say anything

_LENGTHS = ((10, "length-1-10"), (30, "length-11-30"))
_LONG = "length-over-30"
_ENGLISH = ((0.0, "english-0"), (0.2, "english-1-20"))
_MUCH_ENGLISH = "english-over-20"
_RARE = 3  # passages


def slices(each: AnySet, window: int) -> dict[str, tuple[str, ...]]:
    """Group a set's questions.

    Args:
        each: Any set.
        window: Tokens that the model reads of a text.

    Returns:
        Ids by slice, of slices with at least 20 questions, and as many outside.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for key, name in _named(each, window):
        found[name].append(key)
    most = len(each.questions) - FEWEST
    return {name: tuple(ids) for name, ids in sorted(found.items()) if FEWEST <= len(ids) <= most}


def english(text: str) -> float:
    """Share of Latin letters among the letters of a text."""
    letters = [char for char in text if char.isalpha()]
    return sum(char.isascii() for char in letters) / max(1, len(letters))


def _named(each: AnySet, window: int) -> Iterator[tuple[str, str]]:
    """Yield the id of a question and a slice that it belongs to, for all."""
    for key, texts in each.questions.items():
        text = "".join(texts)
        yield key, next((name for most, name in _LENGTHS if len(text) <= most), _LONG)
        share = english(text)
        yield key, next((name for most, name in _ENGLISH if share <= most), _MUCH_ENGLISH)
        if not isinstance(each, EvaluationSet) and (name := _scripts(*texts)):
            yield key, name
    if isinstance(each, EvaluationSet):
        yield from _by_answer(each, window)


def _by_answer(each: EvaluationSet, window: int) -> Iterator[tuple[str, str]]:
    rare = _rare_terms(each)
    for key, query in each.queries.items():
        relevance = each.qrels.get(key, {})
        answers = [each.corpus[name] for name, value in relevance.items()
                   if value > 0 and name in each.corpus]  # fmt: skip
        if name := _scripts(query, "".join(answers)):
            yield key, name
        if any(len(answer) > window for answer in answers):
            yield key, "beyond-window"
        terms = rare.intersection(_terms(query))
        if terms and any(terms.intersection(_terms(answer)) for answer in answers):
            yield key, "rare-terms"


def _scripts(*texts: str) -> str:
    found = {script_of(text) for text in texts} - {""}
    return "crossed" if len(found) > 1 else next(iter(found), "")


def _rare_terms(each: EvaluationSet) -> set[str]:
    """Two characters of a query that few passages have."""
    asked = {term for query in each.queries.values() for term in _terms(query)}
    counts: Counter[str] = Counter()
    for text in each.corpus.values():
        counts.update(asked.intersection(_terms(text)))
    return {term for term, count in counts.items() if count <= _RARE}


def _terms(text: str) -> Iterator[str]:
    """Yield every two letters or digits in a row."""
    pairs = zip(text, text[1:], strict=False)
    return (one + other for one, other in pairs if one.isalnum() and other.isalnum())
