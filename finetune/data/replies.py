"""Replies on disk by what was asked: each is there once it came, and is never asked for again."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.data.endpoint import Reply

_TABLE = (
    "create table if not exists replies "
    "(asked text primary key, text text not null, tokens_in integer, tokens_out integer)"
)
_WAIT = 60  # seconds for another process that writes


class Replies:
    """A file of replies that several threads and processes may share.

    Args:
        path: Of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without an isolation level, every statement is on disk when it returns.
        self._base = sqlite3.connect(
            path, timeout=_WAIT, isolation_level=None, check_same_thread=False
        )
        self._base.execute(_TABLE)
        self._lock = threading.Lock()

    def get(self, asked: str) -> Reply | None:
        """The reply to a `digest`; None where it was never asked."""
        query = "select text, tokens_in, tokens_out from replies where asked = ?"
        with self._lock:
            row = self._base.execute(query, (asked,)).fetchone()
        return None if row is None else Reply(*row)

    def put(self, asked: str, reply: Reply) -> None:
        """Keep a reply."""
        row = (asked, reply.text, reply.tokens_in, reply.tokens_out)
        with self._lock:
            self._base.execute("insert or replace into replies values (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()


def digest(body: Mapping[str, Any]) -> str:
    """What stands for a request: its model, options and prompt with the passage in it."""
    content = json.dumps(body, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
