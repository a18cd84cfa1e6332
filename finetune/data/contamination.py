"""What the base model may have seen of the evaluation: by name, and by the texts on disk."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.config import Model
from finetune.data.findings import Example, Finding, short
from finetune.data.folding import folded
from finetune.data.lines import objects
from finetune.data.problems import Problems
from finetune.sets import AnySet

_FILES = ("train", "queries", "test", "dev")
_FIELDS = ("query", "text", "sentence1", "sentence2")
_SUFFIX = re.compile(r"(zh|retrieval|reranking|classification|clustering)+$")
_TOO_GOOD = "Its scores there are too good, before and after tuning."


def by_name(sets: Sequence[AnySet], model: Model, card: str | None) -> Iterator[Finding]:
    """Yield evaluation sets whose public namesake the base was trained on.

    Args:
        sets: What selects and reports.
        model: The base; ``trained_on`` names sets.
        card: What the domain's data card says about this model.
    """
    seen = {plain(name) for name in model.trained_on}
    fix = "Report scores on another set beside it, or take a base that has not seen it."
    for each in {each.name: each for each in sets}.values():
        count = sum(len(other.questions) for other in sets if other.name == each.name)
        if plain(each.name) in seen:
            yield Finding(f"{each.name}: in the training of {model.name}", count, count,
                          "queries", True, _TOO_GOOD, fix)  # fmt: skip
    total = sum(len(each.questions) for each in sets)
    if card is not None:
        yield Finding(f"data card on {model.name}", total, total, "queries", True, card, fix)
    elif "unknown" in model.trained_on and total:
        yield Finding(
            f"training data of {model.name} unknown", total, total, "queries", False,
            "Any public set may have been in it.", "Evaluate on questions of your own.",
        )  # fmt: skip


def by_text(
    sets: Sequence[AnySet], folder: Path, own: Sequence[Path], model: Model
) -> Iterator[Finding]:
    """Yield sets on disk that ask what is evaluated, in either script.

    Args:
        sets: What selects and reports.
        folder: Searched in depth for sets.
        own: Folders of the domain itself, left out.
        model: The base; a set in its training is a warning.
    """
    asked = {
        folded(text): f"{each.name}: {key}"
        for each in sets for key, question in each.questions.items() for text in question
    }  # fmt: skip
    seen = {plain(name) for name in model.trained_on}
    for each in sorted(path for path in folder.rglob("*") if path.is_dir()):
        if asked and each.resolve() not in {path.resolve() for path in own}:
            found = {key: text for text in _texts(each) if (key := folded(text)) in asked}
            if found:
                trained = plain(each.name) in seen
                yield Finding(
                    f"also in {each.relative_to(folder)}", len(found), len(asked), "queries",
                    trained,
                    f"{model.name} was trained on {each.name}. {_TOO_GOOD}" if trained else
                    "Do not train on that set too.",
                    "Leave these queries out of the evaluation." if trained else
                    "Nothing, unless a base was trained on it.",
                    tuple(Example(asked[key], short(text))
                          for key, text in list(found.items())[:8]),
                )  # fmt: skip


def plain(name: str) -> str:
    """A set's name without what its copies add: ``DuRetrieval`` and ``du`` are one."""
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return _SUFFIX.sub("", letters) or letters


def _texts(folder: Path) -> Iterator[str]:
    """The questions of a set; files that cannot be read are none of the user's here."""
    for name in (f"{name}.jsonl{end}" for name in _FILES for end in ("", ".gz")):
        if (folder / name).is_file():
            for _, row in objects(folder / name, Problems()):
                yield from (row[field] for field in _FIELDS if isinstance(row.get(field), str))
