"""What a run leaves in its directory."""

import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config import Config, to_dict
from finetune.records import read_json, write_json
from finetune.stage import Done, Planned, publish
from finetune.steps import cmteb

log = logging.getLogger(__name__)

# Dropped rows with their reasons, near duplicates, and the ranks by which pairs are noise.
_LEFT_OUT = ("dropped.jsonl", "near.jsonl", "noise.jsonl")


def results(done: dict[str, Done], tuned: Planned, run_dir: Path, config: Config) -> dict[str, Any]:
    """Put the results into the run directory; return the report."""
    from finetune.inference.script import write_script

    publish(tuned.folder / "model", run_dir / "model")
    write_script(run_dir / "model", config.encode.script)
    shutil.rmtree(run_dir / "adapter", ignore_errors=True)  # of an earlier run
    adapter(tuned, run_dir / "adapter")
    report: dict[str, Any] = read_json(done["report"].folder / "report.json")
    bundle(done["export"].folder / "bundle", run_dir / "bundle", report["published"])
    for name in ("report.html", "README.md", "plots", "outcomes"):
        publish(done["report"].folder / name, run_dir / name)
    thresholds = done["report"].folder / "thresholds.json"
    for folder in (run_dir, run_dir / "bundle"):
        (folder / thresholds.name).unlink(missing_ok=True)  # of an earlier run
        if thresholds.is_file() and folder.is_dir():
            publish(thresholds, folder / thresholds.name)
    cmteb.publish_results(done, run_dir / "cmteb")
    left_out(done, run_dir / "dropped")
    report["stages"] = [
        {"name": each.name, "key": each.key, "seconds": each.seconds, "cached": each.cached}
        for each in done.values()
    ]
    write_json(run_dir / "report.json", report)
    return report


def adapter(tuned: Planned, target: Path) -> None:
    """Publish LoRA's adapter, where the base is what it was trained on."""
    source = tuned.folder / "adapter"
    if source.is_dir() and tuned.step.inputs["model"] == "base":
        publish(source, target)
    elif source.is_dir():
        log.warning(
            "%s is not published: it was trained on what %s left, and fits nothing else; model/ "
            "holds all of it (LoRA alone leaves one: one round at most, no warm-up, no student)",
            target, tuned.step.inputs["model"],
        )  # fmt: skip


def left_out(done: Mapping[str, Done], target: Path) -> None:
    """Publish, a folder for each step, the rows that it dropped and those that it has doubts of.

    A file without rows stays behind.
    """
    shutil.rmtree(target, ignore_errors=True)  # of an earlier run
    published = []
    for name, each in done.items():
        for path in sorted(each.folder.rglob("*.jsonl")):
            if path.name in _LEFT_OUT and path.stat().st_size:
                published.append(target / name / path.relative_to(each.folder))
                published[-1].parent.mkdir(parents=True, exist_ok=True)
                publish(path, published[-1])
    if published:
        log.info("rows left out or in doubt, each with why: %s", ", ".join(map(str, published)))


def bundle(source: Path, target: Path, published: Collection[str]) -> None:
    """Publish a bundle with some of its precisions: those that failed their gate stay behind.

    Where all failed there is no bundle, nor one of an earlier run. What was tuned for an earlier
    one stays: it counts for the same models only.
    """
    from finetune.inference import BundleInfo, machine

    if not published:
        shutil.rmtree(target, ignore_errors=True)
        log.error("%s is not there: every precision failed its gate; the model lies in %s",
                  target, target.with_name("model"))  # fmt: skip
        return
    tuned = machine.read(target)
    publish(source, target)
    if tuned:
        write_json(target / machine.FILE, tuned)
    info = BundleInfo.read(target)
    for name in info.precisions.keys() - published:
        log.error("%s is not published: it failed its gate", name)
        shutil.rmtree(target / name)
    kept = {name: each for name, each in info.precisions.items() if name in published}
    if kept != info.precisions:
        (target / "bundle.json").unlink()  # a link to the step's own
        replace(info, precisions=kept).write(target)


def settings(config: Config, run_dir: Path) -> None:
    """Write ``config.yaml``: all that was decided."""
    import yaml

    text = yaml.safe_dump(to_dict(config), allow_unicode=True, sort_keys=False)
    (run_dir / "config.yaml").write_text(text, encoding="utf-8")
