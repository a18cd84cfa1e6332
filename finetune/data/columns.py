"""Guess which column holds a field, to suggest it; nothing is read by a guess."""

import difflib
import shlex
from collections.abc import Mapping, Sequence

from finetune.data.folding import folded

# What data sets call them, the likeliest first.
_USUAL = {
    "query": ("question", "问题", "提问", "问句", "anchor", "prompt", "instruction", "input",
              "标题", "title"),
    "positive": ("answer", "答案", "回答", "回复", "response", "output", "passage", "document",
                 "text_pos", "pos", "正文", "内容", "content", "text"),
    "negatives": ("negative", "neg"),
}  # fmt: skip


def guess(field: str, name: str, there: Sequence[str]) -> str | None:
    """Return the column that a name means, or else that usually holds the field.

    Names are compared in whichever script, without case, width and punctuation.

    Args:
        field: What the column is to hold.
        name: A column that is not there.
        there: The columns that are.
    """
    forms = {folded(column): column for column in reversed(there)}
    wanted = [folded(each) for each in (name, *_USUAL.get(field, ()))]
    close = difflib.get_close_matches(wanted[0], forms, n=1)
    found = next((each for each in [*wanted, *close] if each in forms), None)
    return None if found is None else forms[found]


def mapping(key: str, columns: Mapping[str, str]) -> str:
    """Return what to type so that these columns are read: ``'domain.columns={query: "问题"}'``."""
    quoted = {field: column.replace('"', r"\"") for field, column in columns.items()}
    pairs = ", ".join(f'{field}: "{column}"' for field, column in quoted.items())
    return shlex.quote(f"{key}={{{pairs}}}")
