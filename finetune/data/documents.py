"""Read documents (Markdown, text, JSON Lines, lines of text) and cut them into passages."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data import clean, markdown
from finetune.data.clean import BadRow
from finetune.data.lines import NOT_UTF8, decoded, ending, existing, objects
from finetune.data.markdown import HEADING
from finetune.data.problems import Problems, excerpt, printable, shown
from finetune.errors import UserError
from finetune.inference.script import is_han
from finetune.records import Dropped, Passage, tally

log = logging.getLogger(__name__)

READABLE = (".md", ".markdown", ".txt")
_EXPECTED = (
    f"a folder of {', '.join(READABLE)} files, a .jsonl file with a text a row or a .txt file with "
    "a text a line"
)
_WAY_OUT = "or set check.bad_rows=drop to leave such files or rows out and count them"
_LONGEST = 300  # characters of a passage made of several paragraphs, or of a part of one
# A sentence with the quotation mark or bracket that closes it, or what is left of a line.
_SENTENCE = re.compile(r"[^。！？!?；;\n]*[。！？!?；;]*[”’」』）)]*\n?")


def read_documents(
    source: Path, dropped: list[Dropped] | None = None, *, tell: bool = True
) -> list[Passage]:
    """Read the passages of a folder (searched in depth, hidden ones not) or of one file.

    A Markdown file is cut at its headings; its title is that of its front matter, or the first
    heading of level 1. A text file's title, and that of a Markdown file without one, is its name,
    if that is Chinese. Paragraphs are joined up to 300 characters, and longer ones cut at the ends
    of sentences. A JSON Lines file has a ``text`` a row, and may have ``title`` and ``heading``; a
    ``.txt`` file that is named itself has a text a line. All are cleaned as the texts of pairs are.

    Args:
        source: The folder or file.
        dropped: Where files of a folder, lines and rows that cannot be used are put, if they do not
            end the run.
        tell: Log what of it is not read or left out; a plan leaves that to the step.

    Raises:
        UserError: With every problem found, one of each file in a folder.
    """
    problems, path = Problems(dropped), existing_documents(source)
    others: Counter[str] = Counter()  # files that are not read, by their endings
    if path.is_dir():
        passages = list(_folder(path, problems, others))
    else:
        passages = list((_rows if ending(path) == ".jsonl" else _lines)(path, problems))
    if others and tell:
        counts = ", ".join(f"{count:,} {end}" for end, count in others.most_common())
        log.warning("%s: %s files are not read (%s); save as text what they should give",
                    printable(str(path)), f"{others.total():,}", counts)  # fmt: skip
    problems.check(*([_WAY_OUT] if problems.refused else []))
    if not passages:
        told = f"domain.documents={source}: no text found; expected {_EXPECTED}"
        raise UserError(told, *problems.examples)
    if dropped and problems.examples and tell:
        reasons = tally(row.reason for row in dropped)
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        log.warning("%s: left out: %s; the first: %s",
                    printable(str(path)), counts, problems.examples[0])  # fmt: skip
    return passages


def existing_documents(source: Path) -> Path:
    """Return the folder, or the file (by itself or packed as ``.gz``), that holds documents.

    Raises:
        UserError: There is none, or it is of another kind.
    """
    if source.is_dir():
        return source
    if ending(source) not in (".jsonl", ".txt"):
        raise UserError(f"domain.documents={source}: expected {_EXPECTED}")
    return existing(source)


def from_texts(texts: Sequence[str]) -> list[Passage]:
    """Passages of texts that stand alone, as a corpus holds them."""
    return [Passage(str(index), "", "", text) for index, text in enumerate(texts)]


def _folder(folder: Path, problems: Problems, others: Counter[str]) -> Iterator[Passage]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)  # no part of a step's key
        if hidden or not path.is_file():
            continue
        if ending(path) not in READABLE:
            others[printable(ending(path)) or "without an ending"] += 1
        else:
            name = printable(str(inside))
            sections = _sections(path, _whole(path, problems))
            for number, (title, heading, text) in enumerate(sections):
                yield Passage(f"{name}#{number}", title, heading, text)


def _whole(path: Path, problems: Problems) -> list[str]:
    """The cleaned lines of a file; none where one of them cannot be read."""
    name = printable(str(path))
    lines = []
    try:
        for number, line, problem in decoded(path):
            if problem:
                problems.refuse(Dropped(NOT_UTF8, name, number, excerpt(line.strip())), problem)
                return []
            lines.append(_seen(line))
    except UserError as error:  # UTF-16, or cut short
        message = str(error).removeprefix(f"{name}: ")
        problems.refuse(Dropped("not readable", name, 1, ""), message)
        return []
    return lines


def _seen(text: str) -> str:
    """The cleaned text, or "" where nothing of it can be seen, or a file's name is not UTF-8."""
    try:
        return clean.text("text", text, Counter())
    except BadRow:
        return ""


def _sections(path: Path, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield title, heading and text of each passage of a file."""
    marked_up = ending(path) != ".txt"
    title, lines = markdown.read("\n".join(lines)) if marked_up else ("", lines)
    named = any(map(is_han, path.stem))  # a README, or 2024-03_final_v2, says nothing to ask with
    title = _seen(title) or (_seen(path.stem) if named else "")
    heading = ""
    paragraphs = [""]
    for line in [*lines, None]:
        found = HEADING.match(line) if marked_up and line else None
        if found or line is None:
            yield from ((title, heading, text) for text in _joined(paragraphs))
            paragraphs = [""]
        if found:
            heading = _seen(found[2])
            heading = "" if heading == title else heading
        elif line:
            paragraphs[-1] += line + "\n"
        else:
            paragraphs.append("")


def _joined(paragraphs: Sequence[str]) -> Iterator[str]:
    """Join short paragraphs; cut long ones at the ends of sentences, of which none is cut."""
    text = ""
    for paragraph in paragraphs:
        for piece in [paragraph] if len(paragraph) <= _LONGEST else _SENTENCE.findall(paragraph):
            if text and len(text) + len(piece) > _LONGEST:
                yield text.strip()
                text = ""
            text += piece
    if text:
        yield text.strip()


def _lines(path: Path, problems: Problems) -> Iterator[Passage]:
    name = printable(str(path))
    for number, line, problem in decoded(path):
        if problem:
            problems.refuse(Dropped(NOT_UTF8, name, number, excerpt(line.strip())), problem)
            if problems.refused:  # so are most of the lines after it
                return
        elif text := _seen(line):
            yield Passage(str(number), "", "", text)


def _rows(path: Path, problems: Problems) -> Iterator[Passage]:
    name = printable(str(path))
    for number, row in objects(path, problems):
        values = {field: row.get(field, "") for field in ("title", "heading", "text")}
        texts = all(isinstance(value, str) for value in values.values())
        if not texts or not values["text"].strip():
            problems.refuse(
                Dropped("no text", name, number, shown(row)),
                "no text; expected a row with text, and perhaps title and heading, all of them "
                "strings",
            )
            continue
        try:
            title, heading, text = (
                clean.text(field, value, Counter()) if value.strip() else ""
                for field, value in values.items()
            )
        except BadRow as error:
            problems.refuse(Dropped(error.reason, name, number, shown(row)), str(error))
            continue
        yield Passage(str(number), title, heading, text)
