"""Record a run where its makers look: parameters, live curves, scores, files and the bundle.

Nothing here decides how a run ends: where the server is away, the run goes on without it.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from finetune.config import Config, Tracking
from finetune.config.choices import Tracker
from finetune.errors import UserError

_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")


class Run(Protocol):
    """A run that is being recorded."""

    def watch(self, curves: Sequence[Path], before: int = 0, *, live: bool = True) -> None:
        """Follow a JSON Lines file that training is about to write; call it before training.

        ``curves`` are the places where it may lie: while training writes it, and afterwards.
        ``before`` counts the training steps of earlier rounds. Where training is cached it is not
        ``live``: then it is looked at once, at the end.
        """
        ...

    def finish(self, report: Mapping[str, Any]) -> None:
        """Record what a finished run directory holds; nothing where that is recorded already."""
        ...


class Group(Protocol):
    """The run above those of a sweep or a search; theirs name it in ``tracking.parent``."""

    run_id: str | None

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path], note: str = "") -> None:
        """Record what came out of all of them; the note, in Markdown, stands on the run's page."""
        ...


class Untracked:
    """A run that nobody records."""

    def watch(self, curves: Sequence[Path], before: int = 0, *, live: bool = True) -> None:
        """Do nothing."""

    def finish(self, report: Mapping[str, Any]) -> None:
        """Do nothing."""


@contextmanager
def track(config: Config, run_dir: Path) -> Iterator[Run]:
    """Record what happens inside the block.

    Args:
        config: Of the run; ``config.tracking`` says where it is recorded.
        run_dir: Gives the run its name, and holds ``.mlflow-run``, by which a repeated call finds
            the MLflow run that it continues.

    Raises:
        UserError: MLflow is wanted and not installed, or ``tracking.uri`` cannot be one.
    """
    if config.tracking.kind is Tracker.none:
        yield Untracked()
        return
    _check(config.tracking)
    from finetune.tracking import missed
    from finetune.tracking.recorder import Recorder
    from finetune.tracking.target import Target

    recorder = Recorder(Target.of(config, run_dir), run_dir)
    completed = False
    try:
        yield recorder
        completed = True
    finally:
        recorder.close(completed=completed)
    if not recorder.away:
        missed.send(run_dir, config.tracking.uri)


class Ungrouped:
    """No run above others."""

    run_id: str | None = None

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path], note: str = "") -> None:
        """Do nothing."""


@contextmanager
def group(tracking: Tracking, folder: Path, parameters: Mapping[str, str]) -> Iterator[Group]:
    """Keep a run open above those that are made inside the block.

    Args:
        tracking: Where they are recorded.
        folder: Gives the run its name, and holds the file by which a repeated call finds it.
        parameters: Of the group.

    Raises:
        UserError: As `track`.
    """
    if tracking.kind is Tracker.none:
        yield Ungrouped()
        return
    _check(tracking)
    from finetune.tracking.groups import GroupRecorder

    recorder = GroupRecorder(tracking, folder, parameters)
    completed = False
    try:
        yield recorder
        completed = True
    finally:
        recorder.close(completed=completed)


def _check(tracking: Tracking) -> None:
    problems = []
    if importlib.util.find_spec("mlflow") is None:
        problems.append(
            "tracking=mlflow: mlflow is not installed: pip install 'finetune[track]', or switch "
            "it off: tracking=none"
        )
    scheme = urlsplit(tracking.uri).scheme.split("+")[0]
    if scheme not in _SCHEMES:
        problems.append(
            f"tracking.uri={tracking.uri}: expected a database such as sqlite:///mlflow.db, or a "
            f"server such as http://host:5000 (one of: {', '.join(_SCHEMES)})"
        )
    if problems:
        raise UserError(*problems)
