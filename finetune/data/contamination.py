"""What the base model may have seen of the evaluation: by name, and by the texts on disk."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.config import Model
from finetune.config.pairs import Domain
from finetune.data.catalogue import FOLDER, read_catalogue
from finetune.data.findings import Example, Finding, short
from finetune.data.folding import folded
from finetune.data.lines import ending
from finetune.data.problems import Problems, listed
from finetune.data.tables import READABLE, open_table
from finetune.errors import UserError
from finetune.progress import bar
from finetune.sets import AnySet

# Columns that hold what is asked, as sets call them.
_FIELDS = (
    "query", "anchor", "question", "问题", "text", "sentence1", "sentence2", "sent1", "sent2",
    "a", "b",
)  # fmt: skip
_SHOWN = 8  # examples of each finding
_SUFFIX = re.compile(r"(zh|retrieval|reranking|classification|clustering)+$")
_TOO_GOOD = "Its scores there are too good, before and after tuning."


def by_name(sets: Sequence[AnySet], model: Model, card: str | None) -> Iterator[Finding]:
    """Yield evaluation sets whose public namesake the base was, or may have been, trained on.

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
            continue
        for public, sentence in _catalogued(each.name, model.name).items():
            yield Finding(f"{each.name}: public card of {public} on {model.name}", count, count,
                          "queries", True, f"{sentence}.", fix)  # fmt: skip
    total = sum(len(each.questions) for each in sets)
    if card is not None:
        yield Finding(f"data card on {model.name}", total, total, "queries", True, card, fix)
    elif "unknown" in model.trained_on and total:
        yield Finding(
            f"training data of {model.name} unknown", total, total, "queries", False,
            "Any public set may have been in it.", "Evaluate on questions of your own.",
        )  # fmt: skip


def by_text(
    sets: Sequence[AnySet],
    folder: Path,
    own: Sequence[Path],
    model: Model,
    most: int | None = None,
) -> Iterator[Finding]:
    """Yield sets on disk that ask what is evaluated, in either script; last, what was not read.

    Args:
        sets: What selects and reports.
        folder: Searched in depth for tables; those in one folder are a set, and so is one that
            lies in no folder.
        own: Folders of the domain itself, left out.
        model: The base; a set in its training is a warning.
        most: Bytes of a file that is read.
    """
    asked = {
        folded(text): f"{each.name}: {key}"
        for each in sets for key, question in each.questions.items() for text in question
    }  # fmt: skip
    if not asked:
        return
    left_out = {path.resolve() for path in own}
    files = [path for path in sorted(folder.rglob("*"))
             if _may_ask(path) and path.parent.resolve() not in left_out]  # fmt: skip
    found: dict[Path, dict[str, str]] = {}
    unread: list[Example] = []
    with bar("sets on disk", len(files)) as progress:
        for path in files:
            place = path if path.parent == folder else path.parent
            try:
                if most is not None and path.stat().st_size > most:
                    raise UserError(f"{path}: over {most >> 20:,} MiB; finetune check reads it")
                for text in _texts(path):
                    if (key := folded(text)) in asked:
                        found.setdefault(place, {})[key] = text
            except UserError as error:
                problem = error.problems[0].replace(str(path), path.name)
                unread.append(Example(str(path.relative_to(folder)), short(problem)))
            progress(1)
    seen = {plain(name) for name in model.trained_on}
    for place, texts in found.items():
        name = place.name.split(".")[0] if place.is_file() else place.name
        trained = plain(name) in seen
        yield Finding(
            f"also in {place.relative_to(folder)}", len(texts), len(asked), "queries", trained,
            f"{model.name} was trained on {name}. {_TOO_GOOD}" if trained else
            "Do not train on that set too.",
            "Leave these queries out of the evaluation." if trained else
            "Nothing, unless a base was trained on it.",
            tuple(Example(asked[key], short(text)) for key, text in list(texts.items())[:_SHOWN]),
        )  # fmt: skip
    if unread:
        yield Finding(
            f"not looked for in files of {folder}", len(unread), len(files), "files", False,
            "Whether they ask what is evaluated is not known, or not of all their rows.",
            f"Correct them, or call their column of questions {' or '.join(_FIELDS)}.",
            tuple(unread[:_SHOWN]),
        )  # fmt: skip


def own(domain: Domain) -> list[Path]:
    """The folders of a domain itself, in which it is no news that its questions stand."""
    found = [path for path in (domain.dev, domain.test) if path]
    return found + ([Path(domain.train).expanduser().parent] if domain.train else [])


def plain(name: str) -> str:
    """A set's name without what its copies add: ``DuRetrieval`` and ``du`` are one."""
    letters = _letters(name)
    return _SUFFIX.sub("", letters) or letters


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _catalogued(name: str, model: str) -> dict[str, str]:
    """What the catalogues say of public sets of this name, by set, where they name the model.

    Not by the plain name: a folder ``medical`` of one's own is not MedicalRetrieval.
    """
    named = re.compile(rf"(?<![\w-]){re.escape(model)}(?![\w-])")
    return {
        each.name: each.contamination
        for path in sorted(FOLDER.glob("*.md")) for each in read_catalogue(path).sets
        if _letters(each.name) == _letters(name) and named.search(each.contamination)
    }  # fmt: skip


def _may_ask(path: Path) -> bool:
    """True for a table; of a BEIR-shaped folder only the queries ask."""
    beside = {"corpus", "qrels"} & {path.name.split(".")[0], path.parent.name}
    return ending(path) in READABLE and not beside and path.is_file()


def _texts(path: Path) -> Iterator[str]:
    """The questions of a table.

    Raises:
        UserError: It cannot be read, or no column is known to hold questions; where only single
            lines are at fault, after the others.
    """
    problems = Problems()
    table = open_table(path, problems)
    fields = [field for field in _FIELDS if field in table.columns]
    if not fields:
        raise UserError(f"{path}: no column of questions; it has {listed(table.columns)}")
    for _, row in table.rows(fields):
        yield from (row[field] for field in fields if isinstance(row.get(field), str))
    problems.check()
