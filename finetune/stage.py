"""Run a step once: its key decides, and a folder with a manifest says that it is done.

A step writes into ``<cache>/<stage>/.partial-<key>``; the manifest is written last, then one
rename makes it ``<cache>/<stage>/<key>``. A step that died leaves no manifest, and the fixed name
of its partial folder lets training find its own checkpoints. A lock held by the owning process
(and dropped by the kernel when that dies) keeps two runs from making the same thing.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import to_dict
from finetune.errors import UserError
from finetune.records import read_json, write_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Settings = Mapping[str, Any]  # of a step: every value that it reads, by name
Inputs = Mapping[str, Path]  # and the folders and files
_FULL = 1 << 20  # bytes; a disk with less cannot take a file of weights
_LIBRARIES = ("torch", "sentence-transformers", "transformers", "onnx", "onnxruntime", "tokenizers",
              "numpy", "opencc")  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One unit of work.

    Attributes:
        name: Unique in a plan (``mine``, ``export-base``).
        call: ``function(settings, inputs, out)``; its name is the cache folder's, so that
            steps that make the same kind of thing share one.
        version: Raised when the same settings give another result than before.
        settings: Every resolved value that the step reads; part of the key.
        inputs: Names under which the function finds the folders of earlier steps.
        files: Input files and folders, found under their names as the inputs are; their content
            is part of the key, where they lie is not.
        resumes: The function goes on from what a killed attempt left; others find an empty folder.
        outside: Resolved values that the step reads and that cannot change its result (how many
            texts are held in memory at once, how many processes prepare batches); not part of the
            key.
    """

    name: str
    call: Callable[[Settings, Inputs, Path], None]
    version: int
    settings: Settings
    inputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    resumes: bool = False
    outside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A step with its key; ``folder`` is where its output lies once made."""

    step: Step
    key: str
    folder: Path

    @property
    def cached(self) -> bool:
        """True when the output is there."""
        return (self.folder / MANIFEST).is_file()

    @property
    def partial(self) -> Path:
        """Where the step writes until it is done."""
        return self.folder.with_name(f".partial-{self.key}")


@dataclass(frozen=True)
class Done:
    """A finished step, as ``report.json`` lists it."""

    name: str
    key: str
    seconds: float
    cached: bool
    folder: Path


def plan(steps: Sequence[Step], cache: Path) -> list[Planned]:
    """Compute every key before any work.

    A key is a SHA-256 over the step's name and version, its settings, the keys of its inputs and
    the content of its files.
    """
    keys: dict[str, str] = {}
    planned = []
    for step in steps:
        content = {
            "name": step.name,
            "version": step.version,
            "settings": to_dict(step.settings),
            "inputs": {name: keys[source] for name, source in step.inputs.items()},
            "files": {name: hash_path(path) for name, path in step.files.items()},
        }
        keys[step.name] = _digest(content)[:16]
        planned.append(Planned(step, keys[step.name], cache / step.call.__name__ / keys[step.name]))
    return planned


def execute(planned: Planned, folders: Mapping[str, Path]) -> Done:
    """Make the step's output, or find it.

    Args:
        planned: The step.
        folders: Output folders of the steps before it, by step name.
    """
    step = planned.step
    if planned.cached:
        return _done(planned, cached=True)
    planned.folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(planned):
        if planned.cached:  # another run made it while this one waited
            return _done(planned, cached=True)
        if not step.resumes:
            shutil.rmtree(planned.partial, ignore_errors=True)
        planned.partial.mkdir(exist_ok=True)
        log.info("%s: start", step.name)
        start = time.perf_counter()
        inputs = {name: folders[source] for name, source in step.inputs.items()}
        with _full_disk_told(planned.partial):
            step.call({**step.settings, **step.outside}, {**inputs, **step.files}, planned.partial)
        seconds = time.perf_counter() - start
        _write_manifest(planned, seconds)
        planned.partial.rename(planned.folder)
    log.info("%s: done in %.1f s", step.name, seconds)
    return _done(planned, cached=False)


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Raise the operating system's error for a full disk, which torch and safetensors hide."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = shutil.disk_usage(folder).free < _FULL
        if full or "No space left" in str(error):
            raise OSError(errno.ENOSPC, "no space left", str(folder)) from error
        raise


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents (hidden ones left out)."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
        return _digest({str(p.relative_to(path)): hash_path(p) for p in files})
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(source: Path, target: Path) -> None:
    """Put a finished file or folder into a run directory: hard links, copies across disks."""
    if target.is_dir():
        shutil.rmtree(target)
    elif target.exists():
        target.unlink()
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(source, target)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Hold a run directory.

    Raises:
        UserError: When another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"run_dir={folder}: in use by another run ({_owner(folder / '.lock')}); wait for "
                "it, or name another run_dir"
            ) from None
        _sign(folder / ".lock")
        yield


@contextmanager
def _lock(planned: Planned) -> Iterator[None]:
    path = planned.folder.with_name(f".lock-{planned.key}")
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another run (%s) makes it; waiting", planned.step.name, _owner(path))
            fcntl.flock(file, fcntl.LOCK_EX)
        _sign(path)
        yield


def _sign(lock: Path) -> None:
    lock.write_text(f"process {os.getpid()} on {os.uname().nodename}", encoding="utf-8")


def _owner(lock: Path) -> str:
    return lock.read_text(encoding="utf-8") or "unknown process"


def _done(planned: Planned, *, cached: bool) -> Done:
    seconds = float(read_json(planned.folder / MANIFEST)["seconds"])
    return Done(planned.step.name, planned.key, seconds, cached, planned.folder)


def _write_manifest(planned: Planned, seconds: float) -> None:
    step = planned.step
    outputs = sorted(p for p in planned.partial.rglob("*") if p.is_file())
    manifest = {
        "step": step.name,
        "call": step.call.__name__,
        "version": step.version,
        "key": planned.key,
        "settings": to_dict(step.settings),
        "inputs": dict(step.inputs),
        "files": {name: {"path": str(p), "sha256": hash_path(p)} for name, p in step.files.items()},
        "outputs": {str(p.relative_to(planned.partial)): hash_path(p) for p in outputs},
        "libraries": dict(_library_versions()),
        "git_commit": git_commit(),
        "seconds": round(seconds, 3),
    }
    write_json(planned.partial / MANIFEST, manifest)


def _library_versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def git_commit() -> str:
    """The commit of the working directory's repository, or ``unknown``."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return result.stdout.strip() or "unknown"


def _digest(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _link(source: str | Path, target: str | Path) -> None:
    if str(source).endswith(".onnx.data"):  # onnx.load refuses data with several names
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)
