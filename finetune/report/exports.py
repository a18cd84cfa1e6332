"""What became of the exports: the formats that were not published, and what a format is for."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune.config import artifact
from finetune.report.gates import Gate, Status, refused
from finetune.report.words import Said


def unpublished(parity: Mapping[str, Any]) -> Iterator[Gate]:
    """Fail a gate for each format that was too far from torch to be published.

    What is measured there is exact: the interval is the value, and ``n`` counts texts.

    Args:
        parity: By precision, the values of a comparison with torch, and the floors it missed.
    """
    for precision, found in parity.items():
        for measure, floor in found.get("misses", {}).items():
            value = found[measure]
            detail = Said(
                "gate.parity", artifact=artifact(precision), n=found["texts"],
                measure=measure.replace("_", " "), value=f"{value:.4f}", floor=f"{floor:g}",
            )  # fmt: skip
            yield Gate(f"parity-{precision}", Status.failed, value, floor, found["texts"],
                       value, value, 1.0, detail)  # fmt: skip
            break


def published(parity: Mapping[str, Any], gates: Iterable[Gate]) -> list[str]:
    """Return the precisions that the bundle holds: all that no floor and no gate kept out.

    Args:
        parity: By precision, the floors it missed among others.
        gates: Of the run.
    """
    failed = refused(gates)
    return [precision for precision, found in parity.items()
            if not found.get("misses") and artifact(precision) not in failed]  # fmt: skip


def notes(parity: Mapping[str, Any]) -> Iterator[Said]:
    """What a reader must know about the formats."""
    if "fp16" in parity:
        yield Said("note.fp16")
    for precision, found in parity.items():
        quality = found.get("quality", {"kept": 0, "missed": ()})
        if quality["kept"] or quality["missed"]:
            yield _kept(artifact(precision), quality)


def _kept(name: str, quality: Mapping[str, Any]) -> Said:
    """Why parts of an INT8 model stay fp32, and whether that was enough."""
    before, after, budget = (
        ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in quality[each].items())
        for each in ("before", "after", "budget")
    )
    return Said("note.kept", artifact=name, kept=quality["kept"], of=quality["of"], before=before,
                after=after, budget=budget,
                short=Said("note.short" if quality["missed"] else "nothing"))  # fmt: skip
