"""A local stand-in for the Hugging Face hub: one data set, at one commit, of files on disk."""

import contextlib
import hashlib
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow
from pyarrow import parquet
from serving import Quiet, serving

NAME = "owner/questions"
ROWS = 4  # in each file
# Two subsets; the first is taken where none is named.
README = """---
configs:
- config_name: law
  default: true
  data_files:
  - {split: train, path: law/train.parquet}
  - {split: test, path: law/test.parquet}
- config_name: tax
  data_files:
  - {split: train, path: tax/train.parquet}
---
"""


def put(folder: Path, **answers: str) -> str:
    """Write the data set, whose files differ in their answers; return the commit of its state."""
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(README, "utf-8")
    for name, answer in {"law_train": "甲", "law_test": "乙", "tax_train": "丙", **answers}.items():
        path = folder / f"{name.replace('_', '/')}.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = [{"query": f"问{n}是什么", "positive": f"{answer}{n}"} for n in range(ROWS)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    content = b"".join(each.read_bytes() for each in _files(folder))
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def served(folder: Path, commit: str):
    """Serve the data set as of this commit; gives the address."""

    class Handler(Quiet):
        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            form = json.loads(self.rfile.read(length) or b"{}")
            found = _answer(folder, commit, unquote(urlsplit(self.path).path), form)
            if isinstance(found, str):
                self.answer(b"{}", 404, X_Error_Code=found, X_Repo_Commit=commit)
                return
            body = found if isinstance(found, bytes) else json.dumps(found).encode()
            tag = f'"{hashlib.sha1(body).hexdigest()}"'
            self.answer(body, X_Repo_Commit=commit, ETag=tag)

        do_HEAD = do_POST = do_GET

    with serving(Handler) as address:
        yield address


def _answer(folder: Path, commit: str, path: str, form: dict[str, list[str]]) -> object:
    """The bytes of a file, or what goes out as JSON; of an error its code."""
    _, known, place = path.partition(f"/datasets/{NAME}")
    what, _, rest = place.lstrip("/").partition("/")
    revision, _, inside = rest.partition("/")
    if not known:
        return "RepoNotFound"
    if revision not in ("", "main", commit):
        return "RevisionNotFound"
    if what in ("", "revision"):
        return {"id": NAME, "sha": commit, "siblings": []}
    if what == "tree":
        return _tree(folder, inside)
    if what == "paths-info":
        return [each for each in _tree(folder, "") if each["path"] in form["paths"]]
    file = folder / inside
    return file.read_bytes() if what == "resolve" and file.is_file() else "EntryNotFound"


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


def _tree(folder: Path, inside: str) -> list[dict[str, object]]:
    """All files and folders below, as the hub lists them."""
    listed = []
    for each in sorted((folder / inside).rglob("*")):
        path = str(each.relative_to(folder))
        if each.is_dir():
            listed.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        else:
            oid = hashlib.sha1(each.read_bytes()).hexdigest()
            listed.append({"type": "file", "path": path, "oid": oid, "size": each.stat().st_size})
    return listed
