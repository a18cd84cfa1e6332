"""In which script texts are trained on and encoded: what the settings may say."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional  # noqa: UP035 (OmegaConf reads these forms)

KEEP, BOTH = "keep", "both"
# OpenCC's conversions of Simplified texts, and those that turn them back.
BACK = {"s2t": "t2s", "s2tw": "tw2s", "s2twp": "tw2sp", "s2hk": "hk2s"}
THERE = {back: there for there, back in BACK.items()}
# Conversions of all that is trained on and selected by.
WHOLE = (*BACK, "t2s")
_MIX = "mix:"


@dataclass(frozen=True)
class OpenCC:
    """How texts are converted: to which Traditional, and what is not left to OpenCC.

    ``dictionary`` is a file, or a folder of files; ``crossed`` is the share of converted rows of
    which the query alone is.
    """

    traditional: str
    protect: List[str]  # noqa: UP006
    dictionary: Optional[Path]  # noqa: UP045
    crossed: float


@dataclass(frozen=True)
class Encode:
    """What becomes of every text before it is tokenised, and what the tokeniser learns for it."""

    script: str
    add_characters: bool


def share(script: str) -> float | None:
    """The share of rows that ``mix:<share>`` puts into the other script; None for other settings.

    Raises:
        ValueError: It is no number.
    """
    return float(script.removeprefix(_MIX)) if script.startswith(_MIX) else None


def is_mixed(script: str) -> bool:
    """Say whether training sees texts as they are beside converted ones."""
    return script == BOTH or script.startswith(_MIX)


def problems(
    script: str, opencc: OpenCC, encode: Encode, *, distilled: bool = False
) -> Iterator[str]:
    """Say what is no choice, or at odds with another setting."""
    yield from _unknown(script, opencc, encode)
    if opencc.crossed and not 0 <= opencc.crossed <= 1:
        yield f"opencc.crossed={opencc.crossed}: must be a share of rows, between 0 and 1"
    elif opencc.crossed and script == KEEP:
        yield f"opencc.crossed={opencc.crossed}: script=keep converts no row; set script=mix:0.5"
    if "" in opencc.protect:
        yield "opencc.protect: holds an empty text; expected words that stay as they are"
    if script in BACK and encode.script != KEEP:
        yield (
            f"script={script}: trains on Traditional texts, and encode.script={encode.script} "
            "turns every text into Simplified; leave one of the two out"
        )
    if distilled and (script != KEEP or encode.add_characters):
        yield (
            f"distill: a student learns its teacher's vectors of the texts as they are; set "
            f"script={KEEP} and encode.add_characters=false (encode.script=t2s may stay)"
        )


def _unknown(script: str, opencc: OpenCC, encode: Encode) -> Iterator[str]:
    listed = ", ".join((KEEP, *WHOLE, BOTH))
    try:
        mixed = share(script)
    except ValueError:
        mixed = 0.0
    if mixed is None and script not in (KEEP, BOTH, *WHOLE):
        yield f"script={script}: choose from: {listed}, or mix:<share> as mix:0.5"
    elif mixed is not None and not 0 < mixed <= 1:
        yield f"script={script}: expected a share of rows above 0 and at most 1, as mix:0.5"
    if opencc.traditional not in BACK:
        yield f"opencc.traditional={opencc.traditional}: choose from: {', '.join(BACK)}"
    if encode.script not in (KEEP, *THERE):
        yield f"encode.script={encode.script}: choose from: {', '.join((KEEP, *THERE))}"
