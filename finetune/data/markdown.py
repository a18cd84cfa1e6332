"""What of a Markdown file is text: headings and paragraphs, without what only a renderer reads."""

import re

HEADING = re.compile(r"(#{1,6})\s+(.+?)(?:\s+#+)?$")  # level and text
# Keys and values at the beginning, fenced code and comments. Whichever begins first is found first,
# so that a fence within a comment is none.
_LEFT_OUT = re.compile(
    r"\A---\n(?P<front>[\w-]+:.*?)\n(?:---|\.\.\.)$"
    r"|^(?P<fence>`{3,}|~{3,})[^`\n]*$.*?(?:^(?P=fence)[`~]*$|\Z)"
    r"|<!--.*?-->",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r"^title:(.+)", re.MULTILINE)
_TABLE = re.compile(r"^(?=.*\|)(.*)\n(?=.*\|)(?=.*-)[-:| \t]+((?:\n(?=.*\|).*)*)$", re.MULTILINE)
_BORDER = re.compile(r"[ \t]*\|[ \t]*")  # between cells
# A paragraph of one line over a rule is a heading; an item of a list, a quotation or a rule is not.
_UNDERLINED = re.compile(
    r"(?:\A|(?<=\n\n))(?![-*+] |\d+[.)] |[>#|]|[-=*_]{3})(.+)\n(?:(=+)|-{2,})$", re.MULTILINE
)
_RULE = re.compile(r"^[-=*_|: \t]{3,}$", re.MULTILINE)
_ADDRESSED = r"\[([^\[\]\n]*)\]\((?:[^()\n]|\([^()\n]*\))*\)"
_IMAGE, _LINK = re.compile(f"!{_ADDRESSED}"), re.compile(_ADDRESSED)


def read(text: str) -> tuple[str, list[str]]:
    """Return the title ("" for none), and the lines of headings and paragraphs.

    The title is the one in the front matter, or else the first heading of level 1. All headings
    begin with ``#``. Front matter, fenced code, comments and rules are left out; of an image its
    description stays, of a link its text, of a table's row the cells.

    Args:
        text: Of a file, its lines stripped.
    """
    front = next((found["front"] for found in _LEFT_OUT.finditer(text) if found["front"]), "")
    text = _LEFT_OUT.sub("", text).strip()
    text = _TABLE.sub(lambda found: _BORDER.sub(" ", found[1] + found[2]), text)
    text = _UNDERLINED.sub(lambda found: f"{'#' if found[2] else '##'} {found[1]}", text)
    text = _LINK.sub(r"\1", _IMAGE.sub(r"\1", _RULE.sub("", text)))
    lines = [line.strip() for line in text.split("\n")]
    headings = filter(None, map(HEADING.match, lines))
    first = next((found[2] for found in headings if found[1] == "#"), "")
    named = _TITLE.search(front)
    return (named[1].strip(" \"'") if named else "") or first, lines
