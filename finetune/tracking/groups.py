"""The MLflow run above others: a sweep's above its jobs', a search's above its trials'."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import Tracking
from finetune.records import write_json
from finetune.tracking import content
from finetune.tracking.recorder import (
    MEMORY,
    failure,
    prepare,
    read_memory,
    without_password,
)
from finetune.tracking.target import Target, digest_of, place_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


class GroupRecorder:
    """Holds the run above others open while they go on.

    Args:
        tracking: Where it is recorded.
        folder: Gives it its name, and remembers its id for the next call.
        parameters: What its runs have in common, or differ in.
    """

    def __init__(self, tracking: Tracking, folder: Path, parameters: Mapping[str, str]) -> None:
        self._tracking = tracking
        self._folder = folder
        self._target = Target(
            tracking.uri, tracking.experiment, None, tracking.name or folder.name, parameters
        )
        self._digest = digest_of([tracking.uri, tracking.experiment])
        self._memory = folder / f"{MEMORY}-{self._digest[:8]}"
        self._warned = False
        self.run_id: str | None = read_memory(self._memory, self._digest).get("run_id")
        prepare()
        self._attempt(self._open)

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path], note: str = "") -> None:
        """Record what came out of all of them."""
        self._attempt(lambda: self._log(metrics, files, note))

    def close(self, *, completed: bool) -> None:
        """End the run."""
        self._attempt(lambda: self._end("FINISHED" if completed else "FAILED"))

    def _open(self) -> None:
        place = place_of(self._folder, self._digest)
        self.run_id = content.open_run(self._client(), self._target, place, self.run_id)
        write_json(self._memory, {"target": self._digest, "run_id": self.run_id})

    def _log(self, metrics: Mapping[str, float], files: Sequence[Path], note: str) -> None:
        if self.run_id is None:
            return
        content.log_values(self._client(), self.run_id, metrics, int(1000 * time.time()))
        for file in files:
            self._client().log_artifact(self.run_id, str(file))
        if note:
            content.describe(self._client(), self.run_id, note)

    def _end(self, status: str) -> None:
        if self.run_id is not None:
            self._client().set_terminated(self.run_id, status)

    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._tracking.uri)

    def _attempt(self, work: Callable[[], None]) -> None:
        reason = failure(work)
        if reason and not self._warned:
            self._warned = True
            uri = without_password(self._tracking.uri)
            log.warning("mlflow: %s: %s; the runs go on without one above them", uri, reason)
