"""Pairs whose queries a language model writes: passages are asked about, replies read and judged.

What comes back is not trusted: numbering and quotes go, and a line that is no Chinese query of its
own is left out and counted. A reply without a line is not kept: another run asks again.
"""

import json
import logging
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config.writing import PASSAGE, QUERIES, Writer
from finetune.data import clean, near, texts
from finetune.data.clean import BadRow, comparable
from finetune.data.endpoint import Endpoint, Refused, Reply
from finetune.data.folding import folded
from finetune.data.replies import Replies, digest
from finetune.data.texts import Kind
from finetune.errors import UserError
from finetune.progress import bar
from finetune.records import Pair, Passage

log = logging.getLogger(__name__)

SOURCE = "generated-written"
_REFUSALS = 10  # without a single reply: the others will be refused too
_LONGEST = 100  # characters; what is longer explains something
_COPIED = 8  # characters in a row that a question may share with its passage, and not consist of
# Some servers leave out where a thought begins.
_THOUGHT = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)
# 1、3月5日 has a number, 1.5万元, 10:30 and 1、2、3号楼 have none.
_NUMBER = re.compile(
    r"^(?:[-*•·#>]+\s*|[(（]?(?:\d{1,2}|[一二三四五六七八九十])(?:[)）、](?!\d+、)|[.．:：](?!\d))\s*|"
    r"第\s*(?:\d{1,2}|[一二三四五六七八九十])\s*(?:个|问|题)?(?:问题)?\s*[:：]\s*|"
    r"(?:问题|提问|问|[Qq])\s*\d*\s*[:：.]\s*)+"
)
_ARRAY = re.compile(r"\[\s*\".*\"\s*\]", re.DOTALL)
# A line of what is JSON, but no array of queries.
_JSON = re.compile(r"^[\[{]\s*[\"'“]|[\"']\s*:\s*[\"'\[{]")
_QUOTES = "\"'“”‘’「」『』*`, \t"  # and what stands between strings


@dataclass(frozen=True)
class Writing:
    """What the generate step knows of the endpoint.

    Attributes:
        writer: As configured, its prompt read.
        replies: The file of replies.
    """

    writer: Writer
    replies: Path

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Writing | None":
        """What a step's settings say; None where no endpoint is asked."""
        if "writer" not in settings:
            return None
        writer = replace(settings["endpoint"], prompt=settings["writer"]["prompt"])
        return cls(writer, settings["replies"])


def write(
    writing: Writing, passages: Sequence[Passage], count: int, seed: int
) -> tuple[list[Pair], dict[str, Any]]:
    """Have queries written for as many passages as it takes.

    Args:
        writing: Whom to ask.
        passages: To draw from; the order of the draw is the seed's.
        count: At most so many pairs.
        seed: Of the draw.

    Returns:
        Pairs with ids ``written-<passage id>-<number>``, and what is counted: ``replies``,
        ``refused``, ``left out`` by reason, ``tokens in``, ``tokens out``.

    Raises:
        UserError: The endpoint cannot be asked, or answers nothing.
    """
    writer = writing.writer
    chosen = list(passages)
    random.Random(f"{seed} written").shuffle(chosen)
    chosen = chosen[: min(math.ceil(count / writer.queries), writer.limit or len(chosen))]
    bodies = {passage.id: _body(writer, passage) for passage in chosen}
    asked = {key: digest(body) for key, body in bodies.items()}
    found = _replies(writing, {asked[key]: body for key, body in bodies.items()})
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for passage in chosen:
        reply = found.get(asked[passage.id])
        for number, query in enumerate(_queries(reply, passage, writer.queries, left_out)):
            pairs.append(Pair(f"written-{passage.id}-{number}", query, passage.indexed, SOURCE))
    told = {"replies": len(found), "refused": len(set(asked.values())) - len(found),
            "left out": dict(sorted(left_out.items())), **_tokens(found.values())}  # fmt: skip
    return pairs[:count], told


def _body(writer: Writer, passage: Passage) -> dict[str, Any]:
    """What is sent. A label says what title and heading would."""
    over = () if passage.label else (passage.title, passage.heading)
    text = "\n".join(each for each in (*over, passage.indexed) if each)
    # The passage last: it may hold anything.
    prompt = writer.prompt.replace(QUERIES, str(writer.queries)).replace(PASSAGE, text)
    messages = [{"role": "user", "content": prompt}]
    return {"model": writer.model, "messages": messages, **writer.options}


def _replies(writing: Writing, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Reply]:
    """Return the replies by digest: those that are known, and those asked for now."""
    replies = Replies(writing.replies)
    try:
        known = {key: replies.get(key) for key in bodies}
        found = {key: reply for key, reply in known.items() if reply and _lines(reply.text)}
        missing = {key: body for key, body in bodies.items() if key not in found}
        log.info("%s replies known, %s to ask for: %s", f"{len(found):,}", f"{len(missing):,}",
                 writing.writer.url)  # fmt: skip
        return found | (_ask(writing.writer, missing, replies, bool(found)) if missing else {})
    finally:
        replies.close()


def _ask(
    writer: Writer, bodies: Mapping[str, Mapping[str, Any]], replies: Replies, answered: bool
) -> dict[str, Reply]:
    """Ask, several at once; what comes is kept at once, even after another request has failed."""
    endpoint, stop = Endpoint(writer), threading.Event()

    def one(key: str) -> Reply:
        reply = endpoint.ask(bodies[key], stop)
        if _lines(reply.text):
            replies.put(key, reply)
        return reply

    found: dict[str, Reply] = {}
    refused: list[str] = []
    pool = ThreadPoolExecutor(writer.concurrency)
    try:
        futures = {pool.submit(one, key): key for key in bodies}
        with bar("write queries", len(bodies)) as progress:
            for future in as_completed(futures):
                try:
                    found[futures[future]] = future.result()
                except Refused as error:
                    refused.append(str(error))
                progress(1)
                if len(refused) == min(_REFUSALS, len(bodies)) and not (answered or found):
                    raise UserError(
                        f"writer.url={writer.url}: {refused[0]}; {len(refused)} texts asked about, "
                        "and no reply: correct the option or model that the endpoint names, "
                        "or, where it refuses what the texts say, take other documents"
                    )
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    if cut := sum(reply.cut for reply in found.values()):
        log.warning("writer: %s replies were cut off; raise writer.options.max_tokens, or tell a "
                    "model that thinks not to", f"{cut:,}")  # fmt: skip
    if refused:
        log.warning("writer: %s texts refused: %s", f"{len(refused):,}", refused[0])
    return found


def _queries(reply: Reply | None, passage: Passage, most: int, left_out: Counter[str]) -> list[str]:
    """Return the queries of a reply, and count what is none; of a refused text there are none."""
    if reply is None:
        return []
    found: dict[str, str] = {}
    lines = _lines(reply.text)
    if not lines:
        left_out["cut off" if reply.cut else "empty reply"] += 1
    for line in lines:
        wrong = "twice" if comparable(line) in found else _wrong(line, passage)
        if wrong is None and len(found) == most:
            wrong = "more than asked for"
        if wrong is None:
            found[comparable(line)] = line
        else:
            left_out[wrong] += 1
    return list(found.values())


def _lines(text: str) -> list[str]:
    """The lines of a reply, or strings of its JSON array, without thoughts, numbering, quotes."""
    lines = []
    for line in _split(_THOUGHT.sub("", text)):
        bare = _NUMBER.sub("", line.strip(_QUOTES)).strip(_QUOTES)
        try:
            lines.append(clean.text("reply", bare, Counter()))
        except BadRow:  # nothing that can be seen
            continue
    return lines


def _split(text: str) -> list[str]:
    """The strings of a JSON array of them, which some models write unasked; else the lines."""
    found = _ARRAY.search(text)
    try:
        strings = json.loads(found[0]) if found else []
    except (ValueError, RecursionError):
        strings = []
    lines = [line for each in strings if isinstance(each, str) for line in each.splitlines()]
    return lines or text.splitlines()


def _wrong(line: str, passage: Passage) -> str | None:
    """Say why a line is no query for the passage."""
    counts = texts.count([line])
    if not counts.of(Kind.han, Kind.simplified, Kind.traditional)[0] or counts.english[0]:
        return "not Chinese"
    if counts.of(Kind.kana, Kind.hangul)[0]:
        return "not Chinese"
    if _JSON.search(line):
        return "JSON"
    if line.endswith(("：", ":")):
        return "an introduction"
    if len(line) > _LONGEST:
        return "too long"
    said = near.content(folded(line))
    if not said:
        return "says nothing"
    if len(said) >= _COPIED and said in near.content(folded(passage.indexed)):
        return "a copy of the passage"
    return None


def _tokens(replies: Collection[Reply]) -> dict[str, int]:
    """Tokens of all replies that tell them, asked for now or earlier."""
    told = {"tokens in": sum(each.tokens_in or 0 for each in replies),
            "tokens out": sum(each.tokens_out or 0 for each in replies)}  # fmt: skip
    untold = sum(None in (each.tokens_in, each.tokens_out) for each in replies)
    return told | ({"replies without tokens": untold} if untold else {})
