"""Record a run in MLflow: one MLflow run for each run directory.

MLflow takes seconds to import, so this happens only when there is something to send. Whatever
fails is told once, in plain words, and tried again at the end; what is missing then is sent by the
same command later, or by the next run (`finetune.tracking.missed`).
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune.config import artifact
from finetune.inference import BundleInfo
from finetune.records import read_json, write_json
from finetune.tracking import content, missed
from finetune.tracking.curves import Follower, Repeat, parse
from finetune.tracking.target import Target, digest_of, place_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MEMORY = ".mlflow-run"
# Set for this process where the user has not: a dead server must cost seconds, not minutes
# (MLflow's own defaults: 7 retries of up to 120 s), and nothing is sent to anybody else.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "6",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Recorder:
    """Holds the connection, the thread that follows the curves, and what is recorded already.

    Attributes:
        away: How the last attempt to reach the server ended.
    """

    def __init__(self, target: Target, run_dir: Path) -> None:
        self._target = target
        self._run_dir = run_dir
        self._memory = read_memory(run_dir / MEMORY, target.digest)
        self._run_id: str | None = None  # set once the run is open in this process
        self._followers: list[Follower] = []
        self._known: set[content.Point] = set()
        self._thread: Repeat | None = None
        self._opening = threading.Lock()
        self._reports = False  # the run came to its report
        self._warned = False
        self.away = False

    def watch(self, curves: Sequence[Path], before: int = 0, *, live: bool = True) -> None:
        """Send the rows of a JSON Lines file as they are written, ``before`` added to each step.

        Of one that nobody writes any more, what is missing is sent at the end.
        """
        self._followers.append(Follower(curves, before))
        if live and self._thread is None:
            prepare()  # here, not in the thread: training imports much at the same time
            self._thread = Repeat(lambda: self._attempt(self._send_rows))
            self._thread.start()

    def finish(self, report: Mapping[str, Any]) -> None:
        """Send scores, files and the bundle, unless exactly these have been sent before."""
        self._reports = True
        digest = content.report_digest(report)
        if digest == self._memory.get("report") and self._curves_are_sent():
            log.info("mlflow: this run is recorded already")
            self._move()
            return
        prepare()
        self._stop_thread()
        if self._attempt(lambda: self._record(report)):
            self._remember(report=digest)
            log.info("mlflow: recorded; to look: %s", self._where())

    def close(self, *, completed: bool) -> None:
        """End the MLflow run, if there is anything to end or to send, or note that it is missing.

        A server that `finish` has just found away is not asked again.
        """
        self._stop_thread()
        left = self._run_id is not None or not self._curves_are_sent()
        if left and not (self._reports and self.away):
            prepare()
            self._attempt(lambda: self._end("FINISHED" if completed else "FAILED"))
        if self.away:
            missed.write(self._run_dir, self._target, self._followers, report=self._reports,
                         completed=completed)  # fmt: skip
        else:
            missed.forget(self._run_dir, report=self._reports)
        for follower in self._followers:
            follower.close()

    def _record(self, report: Mapping[str, Any]) -> None:
        client, run_id = self._client(), self._open()
        bundle = self._run_dir / "bundle"
        outcomes = self._outcomes(bundle) if bundle.is_dir() else None
        content.log_report(client, run_id, report, self._run_dir)
        content.log_files(client, run_id, self._run_dir, outcomes)
        if outcomes:
            self._register(bundle, run_id, report, outcomes)
        self._end("FINISHED")

    def _outcomes(self, bundle: Path) -> Path:
        """The folder of what each query got from what is served, at the length that is served."""
        info = BundleInfo.read(bundle)
        whole = self._run_dir / "outcomes" / artifact(info.fastest)
        cut = whole.with_name(f"{whole.name}@{info.length(None)}")
        return cut if cut.is_dir() else whole

    def _register(
        self, bundle: Path, run_id: str, report: Mapping[str, Any], outcomes: Path
    ) -> None:
        """Register the bundle as a model, unless it is already; move the aliases to it or not."""
        from finetune.tracking import aliases, registry

        target = self._target
        version = registry.register(
            bundle, target.model, run_id, target.uri, content.outcome_tags(report)
        )
        outcome = outcomes / f"{report['about']['domain_set']}.jsonl"
        aliases.move(registry.client(target.uri), version, report, outcome)

    def _move(self) -> None:
        """Put a run that is recorded already below the parent that it has now."""
        parent = self._target.parent
        if parent is None or parent == self._memory.get("parent"):
            return
        prepare()
        if self._attempt(lambda: content.adopt(self._client(), self._memory["run_id"], parent)):
            self._remember(parent=parent)

    def _send_rows(self) -> None:
        """Send the curves' new rows; also opens the run, so that it shows from the start."""
        client, run_id = self._client(), self._open()
        for follower in self._followers:
            lines = follower.new()
            rows = [parse(line) for line in lines]
            content.log_rows(client, run_id, rows, follower.before, self._known)
            follower.sent(lines)

    def _curves(self) -> str:
        """Digest of all rows."""
        return digest_of([line for follower in self._followers for line in follower.lines()])

    def _curves_are_sent(self) -> bool:
        return not self._followers or self._curves() == self._memory.get("curves")

    def _open(self) -> str:
        """Open the MLflow run of this run directory: the one it had, or a new one."""
        with self._opening:
            if self._run_id is None:
                client, before = self._client(), self._memory.get("run_id")
                place = place_of(self._run_dir, self._target.digest)
                run_id = content.open_run(client, self._target, place, before)
                self._known = content.known_points(client, run_id)
                self._run_id = run_id
                self._remember(run_id=run_id, parent=self._target.parent or "")
            return self._run_id

    def _end(self, status: str) -> None:
        """Send the last rows and end the run."""
        self._send_rows()
        self._client().set_terminated(self._open(), status)
        self._remember(curves=self._curves())
        self._run_id = None

    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._target.uri)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do something that needs the server; where it fails, say so once and go on."""
        reason = failure(work)
        if reason and not self._warned:
            log.warning(
                "mlflow: %s: %s; the run goes on without it. It is tried again at the end; what is "
                "missing then is sent by the same command, or by the next run.",
                without_password(self._target.uri), reason,
            )  # fmt: skip
            self._warned = True
        self.away = reason is not None
        return not self.away

    def _stop_thread(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def _remember(self, **values: str) -> None:
        self._memory |= {"target": self._target.digest, **values}
        write_json(self._run_dir / MEMORY, self._memory)

    def _where(self) -> str:
        uri = self._target.uri
        if uri.startswith("http"):
            return without_password(uri)
        return f"mlflow ui --backend-store-uri {without_password(uri)}"


def prepare() -> None:
    """Import MLflow with short timeouts and without its chatter."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401 (so that it is imported in the caller's thread)

    for name, level in (("alembic", "WARNING"), ("mlflow", "ERROR"), ("urllib3", "ERROR")):
        logging.getLogger(name).setLevel(level)


def failure(work: Callable[[], None]) -> str | None:
    """Do something that needs the server; say why it could not be done, or nothing."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        work()
    except (MlflowException, SQLAlchemyError, OSError) as error:
        log.debug("mlflow failed", exc_info=error)
        return _reason(error)
    return None


def read_memory(path: Path, target: str) -> dict[str, str]:
    """What an earlier call recorded, if it was to the same place with the same parameters."""
    try:
        memory: dict[str, str] = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return memory if memory.get("target") == target else {}


def _reason(error: Exception) -> str:
    text = str(error)
    for sign, words in (
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("resolve", "unknown host"),
    ):
        if sign in text:
            return words
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]


def without_password(uri: str) -> str:
    """The address as it may be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri
