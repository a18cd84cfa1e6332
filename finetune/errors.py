"""What goes wrong because of the user's input, told in the user's words."""

import difflib
from collections.abc import Sequence

AS_UTF8 = "save it as UTF-8: iconv -f GB18030 -t UTF-8 old > new"  # where a text is not UTF-8


class UserError(Exception):
    """The input or the configuration is at fault; the command ends with exit code 2.

    Args:
        *problems: Each names the place (file and line, or key), the value found, what was
            expected and the fix. All problems found are reported together.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def nearest(name: str, known: Sequence[str], told: Sequence[str] = ()) -> str:
    """Say which valid name is meant, or list them all.

    Args:
        name: What was given.
        known: The valid names.
        told: What to list instead, where all are too many to read.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from: " + ", ".join(told or known)


def first_line(error: Exception) -> str:
    """The first line of what a library says; the rest is for its own developers."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
