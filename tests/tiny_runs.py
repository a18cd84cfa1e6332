"""A domain that a tiny model can learn, and the command lines of runs on it."""

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from finetune import pipeline
from finetune.config import Config
from finetune.config.compose import compose
from finetune.records import write_jsonl as write_rows
from finetune.stage import plan


def learnable_domain(folder: Path, model: Path, topics: int = 16, queries: int = 4) -> Path:
    """Write a domain whose queries and passages share no characters: only training finds them.

    Topic k asks with two characters and is answered with two others. 64 pairs, and a dev folder
    of 64 queries over 64 passages of which 4 answer each query.
    """
    dev = folder / "dev"
    dev.mkdir(parents=True)
    letters = known_letters(model)
    noise = letters[100:140]
    asked = [letters[2 * k : 2 * k + 2] for k in range(topics)]
    told = [letters[40 + 2 * k : 42 + 2 * k] for k in range(topics)]
    write_rows(folder / "train.jsonl", [
        {"query": f"{asked[k]}{noise[i]}？", "positive": f"{told[k]}{noise[(i + k) % 10 + 10]}。"}
        for k in range(topics) for i in range(4)
    ])  # fmt: skip
    write_rows(dev / "queries.jsonl", [
        {"id": f"q-{k}-{i}", "text": f"{asked[k]}{noise[i + 4]}？"}
        for k in range(topics) for i in range(queries)
    ])  # fmt: skip
    write_rows(dev / "corpus.jsonl", [
        {"id": f"d{k}-{i}", "text": f"{told[k]}{noise[i + 25]}。"}
        for k in range(topics) for i in range(4)
    ])  # fmt: skip
    rows = [f"q-{k}-{i}\td{k}-{j}\t1" for k in range(topics) for i in range(queries)
            for j in range(4)]  # fmt: skip
    (dev / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def learnable_scores(folder: Path, model: Path, topics: int = 16) -> Path:
    """Write a domain of scored pairs: 1 where topic k is asked and told, 0 where another is told.

    320 pairs, half of them alike, and a dev folder of 256 others in one file.
    """
    dev = folder / "dev"
    dev.mkdir(parents=True)
    letters = known_letters(model)
    noise = letters[100:140]
    asked = [letters[2 * k : 2 * k + 2] for k in range(topics)]
    told = [letters[40 + 2 * k : 42 + 2 * k] for k in range(topics)]

    def pairs(first: int, count: int) -> list[tuple[str, str, int]]:
        return [
            (f"{asked[k]}{noise[i]}？", f"{told[(k + shift) % topics]}{noise[(i + k) % 40]}。",
             int(shift == 0))
            for k in range(topics) for i in range(first, first + count)
            for shift in (0, 1 + (i + k) % (topics - 1))
        ]  # fmt: skip

    write_rows(folder / "train.jsonl", [
        {"a": a, "b": b, "score": score} for a, b, score in pairs(0, 10)
    ])  # fmt: skip
    write_rows(dev / "test.jsonl", [
        {"sentence1": a, "sentence2": b, "label": score} for a, b, score in pairs(10, 8)
    ])  # fmt: skip
    return folder


def known_letters(model: Path) -> str:
    """The Chinese characters that the model knows."""
    vocabulary = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return "".join(sorted(token for token in vocabulary if "\u4e00" <= token <= "\u9fff"))


def overrides(model: Path, domain: Path, work: Path, recipe: str, *more: str) -> list[str]:
    """Return the command line of a run that takes seconds; later values win."""
    settings = {
        "recipes": recipe, "model": "custom", "model.path": str(model), "model.max_length": "64",
        "model.prompts": "{query: 问, passage: ''}",
        "domain": "custom", "domain.train": str(domain / "train.jsonl"),
        "domain.dev": str(domain / "dev"), "tracking": "none",
        "train.epochs": "6", "train.batch_size": "8", "train.max_length": "32",
        "train.learning_rate": "3e-3", "evaluate.samples": "200", "evaluate.speed_texts": "20",
        "hardware": "cpu", "hardware.precision": "fp32", "hardware.threads": "1",
        "paths.cache": str(work / "cache"), "paths.runs": str(work / "runs"),
    }  # fmt: skip
    if recipe == "contrastive":
        settings |= {"mine.candidates": "200", "mine.negatives": "1", "mine.relative_margin": "0"}
    if recipe == "cosent":
        settings |= {"domain.kind": "scored"}
    settings |= dict(each.split("=", 1) for each in more)
    return [f"{key}={value}" for key, value in settings.items()]


def export_settings(*precisions: str, **floor: float) -> dict[str, object]:
    """Return ``export`` and ``quantize`` of `finetune.export.export_bundle` as configured.

    A ``floor`` replaces those of the precisions.
    """
    from finetune.config.compose import compose

    config = compose(["recipes=full"])
    floors = config.export.floors | (dict.fromkeys(precisions, floor) if floor else {})
    export = dataclasses.replace(config.export, precisions=list(precisions), floors=floors)
    return {"export": export, "quantize": config.quantize}


@contextlib.contextmanager
def logs_as_they_were() -> Iterator[None]:
    """Commands set up logging; tests after these want theirs."""
    root, ours = logging.getLogger(), logging.getLogger("finetune")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


def die() -> None:
    """End this process as ``kill -9`` and the out-of-memory killer do."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: list[str]) -> None:
    """Run a pipeline in this process."""
    from finetune import pipeline
    from finetune.config.compose import compose

    pipeline.run(compose(arguments))


def run_until_killed(arguments: list[str], point: str) -> None:
    """Run a pipeline in this process, and die at one of `POINTS`."""
    POINTS[point]()
    run(arguments)


def _after(module: object, name: str, calls: int = 1, before: bool = False) -> None:
    """Die in the n-th call of a function: after it returns, or before it runs."""
    original, count = getattr(module, name), [0]

    def patched(*args: object, **kwargs: object) -> object:
        count[0] += 1
        if before and count[0] == calls:
            die()
        result = original(*args, **kwargs)
        if count[0] == calls:
            die()
        return result

    setattr(module, name, patched)


def _while_deleting(folder_name: str) -> None:
    """Die when the first file of a folder that is being deleted is gone."""
    original = shutil.rmtree

    def patched(path: str | Path, *args: object, **kwargs: object) -> None:
        if Path(path).name.startswith(folder_name):
            min(p for p in Path(path).rglob("*.safetensors")).unlink()
            die()
        original(path, *args, **kwargs)

    shutil.rmtree = patched


def _in_a_line(step: int) -> None:
    """Die when half of a line of the curves is written."""
    from finetune.training import train as training

    whole = training.Curves.write

    def patched(self: training.Curves, row: dict) -> None:
        if row["step"] == step:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row)[:20])
            die()
        whole(self, row)

    training.Curves.write = patched


def _on(module: str, name: str, calls: int = 1, before: bool = False) -> None:
    parent, _, owner = module.partition(":")
    target = importlib.import_module(parent)
    _after(getattr(target, owner) if owner else target, name, calls, before)


TRAINING = {
    "guard before the first step": lambda: _on("finetune.training.train:Guard", "__call__"),
    # 48 steps in 6 epochs, a line every 2, the guard and a checkpoint every 10
    "first epoch": lambda: _on("finetune.training.train:Curves", "on_log", 2),
    "second epoch": lambda: _on("finetune.training.train:Curves", "on_log", 8),
    "fourth epoch": lambda: _on("finetune.training.train:Curves", "on_log", 17),
    "half a line": lambda: _in_a_line(26),
    "checkpoint's model written": lambda: _on("finetune.model", "save", 2),
    "checkpoint not marked": lambda: _on(
        "finetune.training.train:MarkComplete", "on_save", 3, True
    ),
    "while an old checkpoint is deleted": lambda: _while_deleting("checkpoint-"),
    "last checkpoint marked": lambda: _on("finetune.training.train:MarkComplete", "on_save", 5),
    "before the result is written": lambda: _on("finetune.training.train", "write_json", 1, True),
    "while checkpoints are deleted": lambda: _while_deleting("checkpoints"),
    "manifest not written": lambda: _on("finetune.stage", "_write_manifest", 1, True),
    "manifest not renamed": lambda: _on("finetune.stage", "_write_manifest", 1),
}
AFTERWARDS = {
    "bundle not compared": lambda: _on("finetune.export.stage", "_check_models", 1, True),
    "bundle published": lambda: _on("finetune.steps.core", "write_json", 1, True),
    "baseline scored": lambda: _on("finetune.steps.encoders", "own", 1, True),
    "base timed": lambda: _on("finetune.evaluation.speed", "measure"),
    "tuned scored": lambda: _on("finetune.evaluation.artifacts", "write_outcome", 1),
    "graph scored": lambda: _on("finetune.evaluation.speed", "measure", 2, True),
    "report half written": lambda: _on("finetune.stage", "_write_manifest", 1, True),
    "model published": lambda: _on("finetune.publishing", "publish", 1),
    "bundle half published": lambda: _on("finetune.stage", "_link", 12),
}
POINTS = TRAINING | AFTERWARDS


def folders(run: Config | list[str]) -> dict[str, Path]:
    """Where the steps of a run, or of its command line, lie in the cache."""
    config = pipeline.resolve(compose(run) if isinstance(run, list) else run)
    return {p.step.name: p.folder for p in plan(pipeline.steps_of(config), config.paths.cache)}
