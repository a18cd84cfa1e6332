"""Make a text fit to be kept, or say why it is none.

Only what is safe is changed, and each change counted: control characters, byte order marks and
characters without width go, white space around the text goes. NFKC is never applied to text that
is kept (① would become 1, and full-width punctuation half-width); it serves comparison only.
"""

import hashlib
import re
from collections import Counter
from typing import Any

from finetune.data.problems import shown, type_name
from finetune.records import normalised

CONTROLS = "control characters removed"
SPACE = "white space stripped"

# The C0 and C1 controls but tab and line ends; those that Python takes for white space (\v, \f,
# \x1c-\x1f, \x85) become a space, so that no two words grow together. Then what has no width: the
# zero-width space, word joiner and byte order mark, signs that only turn the direction of writing
# or annotate (bidirectional controls, tags), and joiners behind a Chinese character, which join
# nothing (in an emoji, or other scripts, they do). The C1 controls of UTF-8 that was read as
# Latin-1 stay, so that `texts.is_broken` can tell it.
_SPACES = "\v\f\x1c\x1d\x1e\x1f\x85"
_WIDTHLESS = (
    "\u200b\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0001\U000e0020-\U000e007f"
)
_ANY_CONTROL = re.compile(rf"[\x00-\x08\v\f\x0e-\x1f\x7f-\x9f\u200c\u200d{_WIDTHLESS}]")
_CONTROL = re.compile(
    rf"(?<=[\u3400-\u9fff])[\u200b-\u200d]+|[\x00-\x08\v\f\x0e-\x1f\x7f{_WIDTHLESS}]"
    "|(?<![\xe3-\xef])(?<![\xe3-\xef][\x80-\xbf])[\x80-\x9f]"
)
_INVISIBLE = "\xad\u200b-\u200f\u2060-\u2064\ufeff"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 1e9  # far beyond any scale of similarity, and exact in arithmetic
_VISIBLE = re.compile(rf"[^\s{_INVISIBLE}]")


class BadRow(Exception):
    """A row that cannot be used.

    Args:
        reason: Under which it is counted.
        message: The value found, what was expected, and the fix.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def text(field: str, value: Any, changed: Counter[str]) -> str:
    """Return the cleaned text.

    Args:
        field: Its name in messages.
        value: Whatever the file holds.
        changed: Where changes are counted, by kind.

    Raises:
        BadRow: When it is no text, empty, or half of a character.
    """
    if not isinstance(value, str):
        raise _no_text(field, value)
    _check_characters(field, value)
    cleaned = value
    if _ANY_CONTROL.search(value):
        cleaned = _CONTROL.sub(lambda match: " " if match[0] in _SPACES else "", value)
        if cleaned != value:
            changed[CONTROLS] += 1
    stripped = cleaned.strip()
    if not _VISIBLE.search(stripped):
        raise BadRow(
            "empty text", f"{field} is {shown(value)}; expected text: fill it in, or delete the row"
        )
    if stripped != cleaned:
        changed[SPACE] += 1
    return stripped


def named(column: str) -> str:
    """The name of a column without characters that nobody sees."""
    return _CONTROL.sub("", column)


def number(field: str, value: Any) -> float:
    """Return the number, which in a CSV file is text; ``95%``, as Excel shows one, is 0.95.

    Args:
        field: Its name in messages.
        value: Whatever the file holds.

    Raises:
        BadRow: When it is no finite number.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(bare := value.strip().removesuffix("%")):
        value = float(bare) / (100 if value.strip() != bare else 1)
    if type(value) not in (int, float) or not abs(value) < _LARGEST:  # NaN fails this too
        raise BadRow(
            "bad score",
            f"{field} is {shown(value)} ({type_name(value)}); expected a finite number, higher for "
            "texts that are more alike: correct it, or delete the row",
        )
    return float(value)


def comparable(text: str) -> str:
    """The form in which texts are compared; texts without letters and digits stay themselves."""
    return normalised(text) or text


def fingerprint(*texts: str) -> bytes:
    """Sixteen bytes that stand for these texts in a set of millions."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=16).digest()


def _no_text(field: str, value: Any) -> BadRow:
    if value is None:
        return BadRow(
            "empty text", f"{field} is null; expected text: fill it in, or delete the row"
        )
    fix = f'put it in quotes ("{value}")' if type(value) in (int, float) else "write it as text"
    return BadRow(
        "not text", f"{field} is {shown(value)}, {type_name(value)}; expected text: {fix}"
    )


def _check_characters(field: str, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(
            "lone surrogate",
            f"{field} holds \\u{ord(value[error.start]):04x} at character {error.start + 1}, half "
            "of a character (a lone surrogate); expected whole characters: export the file again "
            "from its source without cutting texts, or delete the row",
        ) from error
