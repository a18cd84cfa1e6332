"""An OpenAI-compatible endpoint: ``POST <url>/chat/completions``, with patience for a busy one.

The key is read from the environment, sent, and kept out of every message.
"""

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from finetune.config.writing import Writer
from finetune.data.problems import printable
from finetune.errors import UserError

log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds before the second attempt; doubles with each
_LONGEST_PAUSE = 120.0  # also where the endpoint asks for a longer one
_SHOWN = 200  # characters of what an endpoint says
_PATH = "/chat/completions"
_REFUSED = (400, 413, 422)  # this text: too long, or not to the provider's liking
_CUT = ("length", "content_filter")  # why a reply ends in the middle
_BUSY = (408, 409, 425, 429)
_FIXES = {
    401: "writer.key_env names the environment variable that holds the key",
    402: "the account has no credit left",
    403: "the key may not use this model: writer.key_env, writer.model",
    404: "writer.url ends in /v1 as a rule, and writer.model is a name that <url>/models lists",
}


@dataclass(frozen=True)
class Reply:
    """What the model wrote, and the tokens that were counted (None where none were).

    Where it was ``cut`` off, the line that it broke off in is not part of the text.
    """

    text: str
    tokens_in: int | None
    tokens_out: int | None
    cut: bool = False


class Refused(Exception):
    """The endpoint does not answer this text; others it may."""


class _Busy(Exception):
    """It may answer later.

    Args:
        message: What happened.
        pause: Seconds after which to ask again, where it says.
    """

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class _NoRedirect(HTTPRedirectHandler):
    """Leaves a redirection an error: the key is for the address that was named."""

    def redirect_request(self, *args: Any) -> None:
        return None


class Endpoint:
    """Where replies come from; may be asked by several threads at once.

    Raises:
        UserError: The key is not in the environment.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        base = str(writer.url).rstrip("/")
        self._address = base if base.endswith(_PATH) else base + _PATH
        self._key = _key(writer.key_env)
        self._opener = build_opener(_NoRedirect)

    def ask(self, body: Mapping[str, Any], stop: threading.Event) -> Reply:
        """Ask once, and again as long as the endpoint is busy or away.

        Args:
            body: Of the request.
            stop: Ends the waiting between attempts.

        Raises:
            Refused: It will not answer this.
            UserError: It answers nobody, or went on being busy.
        """
        for attempt in range(self._writer.retries + 1):
            try:
                return self._ask_once(body)
            except _Busy as busy:
                told, pause = str(busy), busy.pause
            if pause is None:
                pause = _PAUSE * 2**attempt
            pause = min(pause, _LONGEST_PAUSE)
            if attempt < self._writer.retries:
                log.warning("writer: %s; trying again in %.0f s", told, pause)
                if stop.wait(pause):
                    break
        raise UserError(
            f"writer.url={self._writer.url}: {told}, {self._writer.retries + 1} times; is it the "
            "right address, and is the server up? The same command goes on where it stopped: "
            "replies are kept"
        )

    def _ask_once(self, body: Mapping[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self._address, json.dumps(body).encode(), headers)
        try:
            with self._opener.open(request, timeout=self._writer.timeout) as response:
                return _read(response.read())
        except HTTPError as error:
            raise self._told(error) from error
        except (OSError, HTTPException) as error:  # not there, cut off, or no answer in time
            reason = error.reason if isinstance(error, URLError) else error
            timed_out = isinstance(reason, TimeoutError)
            told = f"no answer within writer.timeout={self._writer.timeout:g} s"
            raise _Busy(told if timed_out else f"no connection ({reason})") from error

    def _told(self, error: HTTPError) -> Exception:
        """What an HTTP error comes to."""
        message = f"answers {error.code} {self._message(error)}"
        if error.code in _REFUSED:
            return Refused(message)
        if error.code in _BUSY or error.code >= 500:
            return _Busy(message, _seconds(error.headers.get("Retry-After")))
        fix = _FIXES.get(error.code, "expected an OpenAI-compatible endpoint")
        return UserError(f"writer.url={self._writer.url}: {message}: {fix}")

    def _message(self, error: HTTPError) -> str:
        """What the endpoint says of an error, on a line, without the key should it repeat it."""
        text = error.read(2000).decode("utf-8", "replace").strip() or str(error.reason)
        return _line(text.replace(self._key, "***") if self._key else text)


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"writer.key_env={variable}: not set in the environment; expected the endpoint's key: "
            f"export {variable}=<key>, or writer.key_env=null for an endpoint without one"
        )
    if not (key.isascii() and key.isprintable()):  # no header; the key itself is not to be shown
        raise UserError(
            f"writer.key_env={variable}: holds characters that no key has; copy the key again"
        )
    return key


def _read(content: bytes) -> Reply:
    """Read a chat completion; a model that says nothing gives an empty text."""
    try:
        answer = json.loads(content)
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        cut = choice.get("finish_reason") in _CUT
        usage = answer.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        # A lone surrogate, which JSON can hold, can be neither stored nor encoded.
        sound = text.encode("utf-8", "replace").decode()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        beginning = _line(content.decode("utf-8", "replace"))
        raise _Busy(f"the reply is no chat completion: {beginning or 'nothing'}") from error
    if cut:
        sound = sound.rpartition("\n")[0]
    tokens_in, tokens_out = map(_whole, counts)
    return Reply(sound, tokens_in, tokens_out, cut)


def _whole(count: Any) -> int | None:
    """A count of tokens, which some endpoints send as 100.0; None where it is none."""
    whole = type(count) is int or (type(count) is float and count.is_integer())
    return int(count) if whole else None


def _line(text: str) -> str:
    return printable(" ".join(text.split()))[:_SHOWN]


def _seconds(header: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header; None where there is none, or a date."""
    return float(header) if header and header.strip().isdecimal() else None
