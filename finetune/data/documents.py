"""Read documents (Markdown, text, JSON Lines) and cut them into passages."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.lines import ending, existing, objects, text_lines
from finetune.data.problems import Problems, printable
from finetune.errors import UserError
from finetune.records import Passage

READABLE = (".md", ".markdown", ".txt")
_LONGEST = 300  # characters of a passage made of several paragraphs
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")


def read_documents(source: Path) -> list[Passage]:
    """Read the passages of a folder (searched in depth) or of a ``.jsonl`` file.

    A Markdown file is cut at its headings, the first of level 1 being its title; a text file's
    title is its name. Paragraphs are joined up to 300 characters. A JSON Lines file has a ``text``
    a row, and may have ``title`` and ``heading``.

    Raises:
        UserError: With every problem found.
    """
    problems = Problems()
    if source.is_dir():
        passages = list(_folder(source, problems))
    elif ending(source) == ".jsonl":
        passages = list(_rows(existing(source), problems))
    else:
        raise UserError(
            f"domain.documents={source}: expected a folder of {', '.join(READABLE)} files, or a "
            ".jsonl file with a text a row"
        )
    problems.check()
    if not passages:
        raise UserError(
            f"domain.documents={source}: no text found; expected {', '.join(READABLE)} files "
            "with text in them, or a .jsonl file with a text a row"
        )
    return passages


def from_texts(texts: Sequence[str]) -> list[Passage]:
    """Passages of texts that stand alone, as a corpus holds them."""
    return [Passage(str(index), "", "", text) for index, text in enumerate(texts)]


def _folder(folder: Path, problems: Problems) -> Iterator[Passage]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ending(path) in READABLE:
            lines = [line for _, line in text_lines(path, problems)]
            name = str(path.relative_to(folder))
            sections = _sections(path.stem, lines, markdown=ending(path) != ".txt")
            for number, (title, heading, text) in enumerate(sections):
                yield Passage(f"{name}#{number}", title, heading, text)


def _sections(
    title: str, lines: Sequence[str], *, markdown: bool
) -> Iterator[tuple[str, str, str]]:
    """Yield title, heading and text of each passage of a file."""
    heading = ""
    paragraphs = [""]
    for line in [*lines, "# "]:
        found = _HEADING.match(line.strip()) if markdown else None
        if found or line == "# ":
            yield from ((title, heading, text) for text in _joined(paragraphs))
            paragraphs = [""]
        if found and line.startswith("# ") and not heading:
            title = found[1]
        elif found:
            heading = found[1]
        elif line.strip():
            paragraphs[-1] += line.strip() + "\n"
        else:
            paragraphs.append("")


def _joined(paragraphs: Sequence[str]) -> Iterator[str]:
    """Join short paragraphs; a long one stays whole."""
    text = ""
    for paragraph in filter(None, paragraphs):
        if text and len(text) + len(paragraph) > _LONGEST:
            yield text.strip()
            text = ""
        text += paragraph
    if text:
        yield text.strip()


def _rows(path: Path, problems: Problems) -> Iterator[Passage]:
    for number, row in objects(path, problems):
        values = [row.get(name, "") for name in ("title", "heading", "text")]
        if not all(isinstance(value, str) for value in values) or not values[2].strip():
            problems.add(
                f"{printable(str(path))}:{number}: no text; expected a row with text, and "
                "perhaps title and heading, all of them strings"
            )
            continue
        yield Passage(str(number), values[0], values[1], values[2].strip())
