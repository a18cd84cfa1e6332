"""Record a run in MLflow: one MLflow run for each run directory.

MLflow takes seconds to import, so this happens only when there is something to send. Whatever
fails is told once, in plain words, and tried again at the end and by the same command later.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune.config import Config
from finetune.records import read_json, write_json
from finetune.tracking import content
from finetune.tracking.curves import Follower, Repeat, parse

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
    """Holds the connection, the thread that follows the curves, and what is recorded already."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._parameters = content.parameters(config)
        tracking = config.tracking
        self._target = digest_of([tracking.uri, tracking.experiment, self._parameters])
        self._memory = read_memory(run_dir / MEMORY, self._target)
        self._run_id: str | None = None  # set once the run is open in this process
        self._followers: list[Follower] = []
        self._thread: Repeat | None = None
        self._opening = threading.Lock()
        self._away = False  # how the last attempt ended
        self._warned = False

    def watch(self, curves: Sequence[Path], before: int = 0) -> None:
        """Send the rows of a JSON Lines file as they are written, ``before`` added to each step."""
        prepare()  # imported here, not in the thread: training imports much at the same time
        self._followers.append(Follower(curves, before))
        if self._thread is None:
            self._thread = Repeat(lambda: self._attempt(self._send_rows))
            self._thread.start()

    def finish(self, report: Mapping[str, Any]) -> None:
        """Send scores, files and the bundle, unless exactly these have been sent before."""
        digest = content.report_digest(report)
        if digest == self._memory.get("report") and not self._followers:
            log.info("mlflow: this run is recorded already")
            self._move()
            return
        prepare()
        self._stop_thread()
        if self._attempt(lambda: self._record(report)):
            self._remember(report=digest)
            log.info("mlflow: recorded; to look: %s", self._where())

    def close(self, *, completed: bool) -> None:
        """End the MLflow run, if one is open and the server was there when last asked."""
        self._stop_thread()
        if self._run_id is not None and not self._away:
            self._attempt(lambda: self._end("FINISHED" if completed else "FAILED"))
        for follower in self._followers:
            follower.close()

    def _record(self, report: Mapping[str, Any]) -> None:
        self._send_rows()
        client, run_id = self._client(), self._open()
        content.log_report(client, run_id, report)
        content.log_files(client, run_id, self._run_dir)
        bundle = self._run_dir / "bundle"
        if bundle.is_dir():
            self._register(bundle, run_id)
        self._end("FINISHED")

    def _register(self, bundle: Path, run_id: str) -> None:
        """Register the bundle as a model, unless this very bundle is registered already."""
        from finetune.tracking import registry

        digest = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
        if digest == self._memory.get("bundle"):
            return
        name = f"{self._config.domain.name}-{self._config.model.name}"
        registry.register(bundle, name, run_id, self._config.tracking.uri)
        self._remember(bundle=digest)

    def _move(self) -> None:
        """Put a run that is recorded already below the parent that it has now."""
        parent = self._config.tracking.parent
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
            content.log_rows(client, run_id, [parse(line) for line in lines], follower.before)
            follower.sent(lines)

    def _open(self) -> str:
        """Open the MLflow run of this run directory: the one it had, or a new one."""
        with self._opening:
            if self._run_id is None:
                self._run_id = content.open_run(
                    self._client(),
                    self._config.tracking.experiment,
                    self._run_dir.name,
                    self._memory.get("run_id"),
                    self._parameters,
                    self._config.tracking.parent,
                )
                self._remember(run_id=self._run_id, parent=self._config.tracking.parent or "")
            return self._run_id

    def _end(self, status: str) -> None:
        if self._run_id is not None:
            self._client().set_terminated(self._run_id, status)
            self._run_id = None

    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._config.tracking.uri)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do something that needs the server; where it fails, say so once and go on."""
        reason = failure(work)
        if reason and not self._warned:
            log.warning(
                "mlflow: %s: %s; the run goes on without it. It is tried again at the end; the "
                "same command records the run later.",
                without_password(self._config.tracking.uri), reason,
            )  # fmt: skip
            self._warned = True
        self._away = reason is not None
        return not self._away

    def _stop_thread(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def _remember(self, **values: str) -> None:
        self._memory |= {"target": self._target, **values}
        write_json(self._run_dir / MEMORY, self._memory)

    def _where(self) -> str:
        uri = self._config.tracking.uri
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


def digest_of(value: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
