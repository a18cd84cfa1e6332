"""Queries that a language model writes for passages: what the settings may say."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional  # noqa: UP035 (OmegaConf reads these forms)

from finetune.errors import UserError

PASSAGE, QUERIES = "{passage}", "{queries}"  # what a prompt leaves open
# What decides the reply; where the model is served and how patiently it is asked does not.
_DECIDES = ("model", "share", "queries", "limit", "options")
_ADDRESS = re.compile(r"https?://[!-~]+")  # what HTTP can carry
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Writer:
    """An OpenAI-compatible endpoint: where it is, what it is asked, what it costs.

    ``key_env`` names the environment variable that holds its key; ``share`` is weighed against
    those of the generators, ``queries`` are of one passage, ``limit`` is of passages; prices are of
    a million tokens; ``timeout`` is in seconds.
    """

    url: Optional[str]  # noqa: UP045
    model: Optional[str]  # noqa: UP045
    key_env: Optional[str]  # noqa: UP045
    share: float
    queries: int
    limit: Optional[int]  # noqa: UP045
    prompt: str
    options: Dict[str, Any]  # noqa: UP006
    price_in: Optional[float]  # noqa: UP045
    price_out: Optional[float]  # noqa: UP045
    concurrency: int
    timeout: float
    retries: int

    @property
    def asked(self) -> bool:
        """True where there is one to ask."""
        return self.url is not None and self.share > 0


def problems(writer: Writer, *, makes_pairs: bool) -> Iterator[str]:
    """Say what cannot work; a key that was given in the place of its name is not repeated."""
    if writer.key_env is not None and not _VARIABLE.fullmatch(writer.key_env):
        yield (
            "writer.key_env: expected the name of an environment variable that holds the key, such "
            "as OPENAI_API_KEY, never the key itself"
        )
    if writer.url is None:
        return
    if "@" in writer.url.partition("//")[2].partition("/")[0]:
        yield (
            "writer.url: holds a password; name the environment variable that holds the key: "
            "writer.key_env=<NAME>"
        )
    elif not _ADDRESS.fullmatch(writer.url):
        yield f"writer.url={writer.url}: expected an address such as http://localhost:8000/v1"
    if not writer.model:
        yield "writer.model: not set; expected the name by which the endpoint knows its model"
    if writer.share and not makes_pairs:
        yield "writer.url: set, and generate=none makes no pairs; add generate=documents"


def settings(writer: Writer) -> dict[str, Any]:
    """What a step reads whose pairs it writes, as part of its key; nothing where it is not asked.

    Raises:
        UserError: The prompt's file cannot be read, or the prompt leaves no place for the passage.
    """
    if not writer.asked:
        return {}
    decides = {name: getattr(writer, name) for name in _DECIDES}
    return {"writer": {**decides, "prompt": read_prompt(writer.prompt)}}


def outside(writer: Writer, cache: Path, currency: str) -> dict[str, Any]:
    """What the step reads besides, which does not change its result."""
    if not writer.asked:
        return {}
    replies = cache / "replies.sqlite"
    return {"endpoint": writer, "replies": replies, "currency": currency}


def prices(writer: Writer, currency: str) -> dict[str, Any]:
    """What the report reads."""
    if not writer.asked:
        return {}
    return {"prices": {"in": writer.price_in, "out": writer.price_out, "currency": currency}}


def cost(tokens_in: float, tokens_out: float, prices: tuple[float | None, float | None]) -> float:
    """What so many tokens cost; NaN where a price is not known.

    Args:
        tokens_in: Of what is asked.
        tokens_out: Of the replies.
        prices: Of a million of each.
    """
    price_in, price_out = (math.nan if price is None else price for price in prices)
    return (tokens_in * price_in + tokens_out * price_out) / 1e6


def wanted(pairs: int, share: float, others: float) -> int:
    """Pairs to write, of all that are to be made, where generators have shares too."""
    return round(pairs * share / (share + others))


def read_prompt(prompt: str) -> str:
    """Return the prompt, or the content of the file that it names.

    Raises:
        UserError: It is neither.
    """
    if PASSAGE in prompt:
        return prompt
    path = Path(prompt).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not there, a name with NUL, not UTF-8
        raise UserError(
            f"writer.prompt={prompt!r}: holds no {PASSAGE}, and is no UTF-8 file that can be read; "
            f"expected a text with {PASSAGE} where the passage goes, or a file of such a text"
        ) from error
    if PASSAGE not in text:
        raise UserError(
            f"writer.prompt={prompt}: no {PASSAGE} in this file; expected it where the passage goes"
        )
    return text
