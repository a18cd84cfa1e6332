"""Runs in processes of their own that are killed, and what is left of their caches."""

import multiprocessing
import shutil
from pathlib import Path

import tiny_runs

from finetune import pipeline
from finetune.config.compose import compose
from finetune.stage import plan

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["finetune.training.train", "finetune.export", "tiny_runs"])


def without(work: Path, target: Path, steps: list[str]) -> list[str]:
    """Copy a cache, but for some kinds of steps; return the changed keys of the command line."""
    shutil.copytree(work / "cache", target / "cache", copy_function=shutil.copy2,
                    ignore=lambda folder, names: [
                        name for name in names
                        if Path(folder) == work / "cache" and name in steps])  # fmt: skip
    return [f"paths.cache={target}/cache", f"run_dir={target}/run"]


def killed_at(point: str, arguments: list[str]) -> None:
    child = FORKS.Process(target=tiny_runs.run_until_killed, args=(arguments, point))
    child.start()
    child.join(60)
    assert child.exitcode == -9, f"{point}: ended with {child.exitcode}"


def folder_of(step: str, arguments: list[str]) -> Path:
    config = pipeline.resolve(compose(arguments))
    planned = plan(pipeline.steps_of(config), config.paths.cache)
    return next(each.folder for each in planned if each.step.name == step)


def with_values(arguments: list[str], changes: list[str]) -> list[str]:
    keys = {change.split("=")[0] for change in changes}
    return [a for a in arguments if a.split("=")[0] not in keys] + changes
