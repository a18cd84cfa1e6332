"""Send what earlier runs could not: their server was away when they ended.

A run that cannot be recorded leaves a note in its run directory (`NOTE`): where it belongs, and
where its curves lie. The next run beside it that reaches the same server sends it; so does the
run's own command.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError
from finetune.records import read_json, write_json
from finetune.stage import own_folder
from finetune.tracking.target import Target, as_json

if TYPE_CHECKING:
    from finetune.tracking.curves import Follower

log = logging.getLogger(__name__)

NOTE = ".mlflow-missed"


def write(
    run_dir: Path, target: Target, followers: "Sequence[Follower]", *, report: bool, completed: bool
) -> None:
    """Leave a note of a run that could not be recorded."""
    curves = [{"places": [str(p.absolute()) for p in f.places], "before": f.before}
              for f in followers]  # fmt: skip
    write_json(run_dir / NOTE, {
        "target": as_json(target), "curves": curves, "report": report, "completed": completed,
    })  # fmt: skip


def forget(run_dir: Path, *, report: bool) -> None:
    """Take the note away: all has arrived, of a run that wanted no report at least its curves."""
    found = _read(run_dir / NOTE)
    if found is not None and (report or not found["report"]):
        (run_dir / NOTE).unlink()


def send(run_dir: Path, uri: str) -> None:
    """Send what the runs beside this one, and those of searches beside it, could not.

    Ends at the first that still cannot be sent.
    """
    beside = run_dir.absolute().parent
    for path in sorted([*beside.glob(f"*/{NOTE}"), *beside.glob(f"*/*/{NOTE}")]):
        try:
            with own_folder(path.parent):
                found = _read(path)
                if found and found["target"]["uri"] == uri and not _sent(path.parent, found):
                    return
        except UserError:  # it runs, and tells it all itself
            continue


def _sent(run_dir: Path, note: dict[str, Any]) -> bool:
    from finetune.tracking.recorder import Recorder

    recorder = Recorder(Target(**note["target"]), run_dir)
    for each in note["curves"]:
        recorder.watch([Path(place) for place in each["places"]], each["before"], live=False)
    if note["report"]:
        recorder.finish(read_json(run_dir / "report.json"))
    recorder.close(completed=note["completed"])
    if not recorder.away:
        log.info("mlflow: %s: recorded; its server was away when it ran", run_dir.name)
    return not recorder.away


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        return None
    return content
