"""What training leaves on disk while it runs: its curves, and checkpoints that are known whole."""

import json
import logging
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from finetune.machine import processes

log = logging.getLogger(__name__)

_COMPLETE = "complete"


class Curves(TrainerCallback):
    """Appends what the trainer logs to a JSON Lines file, which tracking follows.

    Args:
        path: The file.
        score: The trainer's name for the guard's score.
        keep_until: Rows after this step are dropped: a resumed run writes them again.
    """

    def __init__(self, path: Path, score: str, keep_until: int) -> None:
        self.path = path
        self.score = score
        rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        # The last line may be cut short by a kill.
        self.rows = [json.loads(row) for row in rows if row.endswith("}")]
        self.rows = [row for row in self.rows if row["step"] <= keep_until]
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        self._since = 0, 0.0  # step and time from which the pace is measured

    def base_score(self) -> float | None:
        """The score before the first step, where an earlier attempt measured it."""
        return next((row[self.score] for row in self.rows if row["step"] == 0), None)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "time": round(time.time(), 3)}) + "\n")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the trainer's log line."""
        # The summary at the end would be there twice after a kill between it and the manifest.
        if state.is_world_process_zero and "train_runtime" not in (logs or {}):
            row = {"step": state.global_step, **(logs or {})}
            if "loss" in row:
                row |= self._pace(args, state.global_step)
            self.write(row)
            shown = [f"{name} {row[name]:.4f}" for name in ("loss", self.score) if name in row]
            log.info("step %d of %d: %s", state.global_step, state.max_steps, ", ".join(shown))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to measure the pace; after each checkpoint anew, so that it counts training alone.

        What the guard and the saving take is no part of it.
        """
        self._since = state.global_step, time.perf_counter()

    on_save = on_train_begin

    def _pace(self, args: TrainingArguments, step: int) -> dict[str, float]:
        """Pairs a second since the last row or checkpoint, and the memory that is in use."""
        (before, then), now = self._since, time.perf_counter()
        self._since = step, now
        pairs = (step - before) * args.per_device_train_batch_size * processes.count()
        found = {"memory_mb": round(memory_in_use(args.device.type) / 1e6, 1)}
        if pairs and now > then:
            found["pairs_per_second"] = round(pairs / (now - then), 2)
        return found


def memory_in_use(device: str) -> int:
    """Bytes that training holds: of the GPU where it runs there, else of this process."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class MarkComplete(TrainerCallback):
    """Lists a checkpoint's files once all are written; one that lacks any is not resumed."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the list."""
        processes.wait()  # each writes a file of its own
        if not processes.first():
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        (folder / _COMPLETE).write_text("\n".join(names), encoding="utf-8")


class Patience(TrainerCallback):
    """Ends training after so many checkpoints in a row that are no better than one before them.

    The base's score does not count: training that begins below it may still come to rise.

    Args:
        checkpoints: How many.
        curves: Where the end is noted.
    """

    def __init__(self, checkpoints: int, curves: Curves) -> None:
        self.checkpoints = checkpoints
        self.curves = curves

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End it; the checkpoint of this step is still written."""
        # Another machine's score may differ in its last digits, and all must end together.
        fell = processes.once(lambda: _falling(state, self.checkpoints, self.curves.score))
        if fell and state.global_step < state.max_steps:
            control.should_training_stop = True
            if state.is_world_process_zero:
                self.curves.write({"step": state.global_step, "stopped": True})
            log.info(
                "stopped at step %d of %d: %d checkpoints in a row brought no better select score",
                state.global_step, state.max_steps, self.checkpoints,
            )  # fmt: skip


def ended(checkpoint: Path, patience: int, score: str) -> bool:
    """True when training had ended with this checkpoint, early or not.

    ``score`` is the trainer's name for the guard's score.
    """
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return state.global_step >= state.max_steps or _falling(state, patience, score)


def _falling(state: TrainerState, patience: int, score: str) -> bool:
    """Decided from the trainer's own history, which a resumed training has again."""
    scores = [row[score] for row in state.log_history if score in row]
    return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones are removed."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not _whole(checkpoint):
            shutil.rmtree(checkpoint)
    return max(folder.glob("checkpoint-*"), key=step_of, default=None)


def _whole(checkpoint: Path) -> bool:
    mark = checkpoint / _COMPLETE
    if not mark.is_file():  # killed while writing it
        return False
    names = mark.read_text(encoding="utf-8").splitlines()
    return all((checkpoint / name).is_file() for name in names)  # else killed while deleting it


def step_of(checkpoint: Path | None) -> int:
    """The step at which a checkpoint was written; 0 for none."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0
