"""Hugging Face's cache as the library leaves it, and an answer of the hub's."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from serving import Quiet, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put(home: Path, source: Path, commit: str = COMMIT) -> Path:
    """Put a model where the library does: blobs by hash, links to them, the list of the files."""
    folder = home / "models--owner--name"
    listed = {}
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(name.parts) + 1), "blobs", blob.name))
        assert link.read_bytes() == path.read_bytes()
        listed[str(name)] = {"size": path.stat().st_size, "blob_id": blob.name}
    for name, text in {
        "refs/main": commit,
        f"trees/{commit}.json": json.dumps({"format_version": 1, "files": listed}),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder / "snapshots" / commit


@contextlib.contextmanager
def answering(body: bytes, status: int = 200, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A hub that gives one answer to all; gives its address and the paths asked for."""
    asked: list[str] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer(body, status, **headers)

    with serving(Handler) as address:
        yield address, asked
