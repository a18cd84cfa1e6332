"""Merge a tuned model with its base: between the two lies less forgetting for little of the gain.

    merged = base + weight x (tuned - base)

for every weight of the model (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903). Pooling,
prompts and length must be the same in both and are not touched. The weights of a `Dense` module are
interpolated as all others are: where tuning left them alone, they stay what they were, to the bit.
"""

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from finetune import model as models
from finetune.errors import UserError
from finetune.records import read_json

Values = NDArray[np.float64]

_WEIGHTS = "*.safetensors"
# A module of anybody else's may hold what cannot be interpolated: a prefix that the base lacks.
_KNOWN_MODULES = "sentence_transformers."


@dataclass(frozen=True)
class Candidate:
    """What one weight gets, a value a query or pair: on the domain, on the general set if any."""

    weight: float
    domain: Values
    general: Values | None = None


@dataclass(frozen=True)
class Choice:
    """The weight to publish, and why, as the log and the report say it."""

    weight: float
    why: str


def check(base: Path, tuned: Path) -> None:
    """Check that two model folders differ in the values of their weights alone.

    Raises:
        UserError: They do not.
    """
    problems = list(_differences(base, tuned))
    if problems:
        raise UserError(*(f"merge: {each}; to leave the model as it is: merge=none"
                          for each in problems))  # fmt: skip


def same_weights(base: Path, tuned: Path) -> bool:
    """True when the guard kept the base: there is nothing to merge."""
    return all((base / name).is_file() and filecmp.cmp(base / name, tuned / name, shallow=False)
               for name in _files(tuned))  # fmt: skip


def as_saved(base: Path, out: Path) -> Path:
    """Write the base as training writes what it tuned, and return the folder.

    Models of other versions of sentence-transformers name the same modules otherwise.
    """
    models.save(models.load(base), out)
    return out


def interpolate(base: Path, tuned: Path, weight: float, out: Path) -> None:
    """Write the model between two.

    Args:
        base: Model folder.
        tuned: Model folder that `check` found to be of the same make.
        weight: Share of the tuned weights; 0 gives the base's, 1 the tuned model's.
        out: Folder to write; what is there is replaced.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(tuned, out, ignore=shutil.ignore_patterns(_WEIGHTS))
    for name in _files(tuned):
        before, after = load_file(base / name), load_file(tuned / name)
        mixed = {key: _mix(before[key], after[key], weight) for key in after}
        save_file(mixed, out / name, metadata={"format": "pt"})


def choose(candidates: Sequence[Candidate], keep_gain: float, max_drop: float) -> Choice:
    """Choose a weight: no more of the tuned weights than the gain needs.

    Whatever a general set shows, there is more that is forgotten. So the smallest weight that keeps
    ``keep_gain`` of the tuned model's gain over the base beyond a standard error: few questions
    leave the tuned model as it is. Where that loses more than ``max_drop`` on the general set, the
    largest that does not, of those that keep the gain on average; where there is none, of those the
    one that loses least.

    Args:
        candidates: Of weight 0 (the base), of weight 1 (the tuned model), and between.
        keep_gain: Share of the gain.
        max_drop: NDCG@10.
    """
    base, *between, tuned = sorted(candidates, key=lambda each: each.weight)
    gain = _gain(base, tuned)
    needed = base.domain + (keep_gain * (tuned.domain - base.domain) if gain > 0 else 0.0)
    kept = [(each, each.domain - needed) for each in between]
    chosen = next((each for each, over in kept if over.mean() >= _error(over)), tuned)
    if _drop(base, chosen) > max_drop + 1e-12:
        keeping = [*(each for each, over in kept if over.mean() >= -1e-12), tuned]
        allowed = [each for each in keeping if _drop(base, each) <= max_drop + 1e-12]
        if not allowed:
            least = min(keeping, key=lambda each: _drop(base, each))
            return Choice(
                least.weight,
                f"{_shares(least)}: no share keeps {keep_gain:.0%} of the gain and loses at most "
                f"{100 * max_drop:.1f} points of the general set; of those that keep it, this one "
                f"loses least: {_change(base, least)}",
            )
        chosen = allowed[-1]
    share = _gain(base, chosen) / gain if gain > 0 else 1.0
    why = f"{_shares(chosen)}, which keeps {share:.0%} of the gain"
    if base.general is not None:
        why += f" and moves the general set by {_change(base, chosen)} points"
    return Choice(chosen.weight, f"{why} (select halves)")


def told(candidates: Sequence[Candidate], choice: Choice, sets: Sequence[str]) -> dict[str, Any]:
    """What ``merge.json`` holds: the choice, and the mean scores of every weight on each set."""
    table = [
        {
            "weight": each.weight,
            "scores": [float(values.mean()) for values in (each.domain, each.general)
                       if values is not None],
        }
        for each in sorted(candidates, key=lambda each: each.weight)
    ]  # fmt: skip
    return {"weight": choice.weight, "why": choice.why, "sets": list(sets), "table": table}


def _differences(base: Path, tuned: Path) -> Iterator[str]:
    foreign = [
        module["type"] for module in read_json(tuned / "modules.json")
        if not module["type"].startswith(_KNOWN_MODULES)
    ]  # fmt: skip
    if foreign:
        yield f"cannot interpolate modules of type {', '.join(foreign)}"
        return
    for name in sorted(_settings(base) | _settings(tuned)):
        one, other = ((folder / name) for folder in (base, tuned))
        if not (one.is_file() and other.is_file()) or _read(one) != _read(other):
            yield f"base and tuned model differ in {name}"
    if _files(base) != _files(tuned):
        yield f"the base has the weights {_files(base)}, the tuned model {_files(tuned)}"
        return
    for name in _files(base):
        shapes = [{k: t.shape for k, t in load_file(folder / name).items()}
                  for folder in (base, tuned)]  # fmt: skip
        if shapes[0] != shapes[1]:
            odd = min(shapes[0].items() ^ shapes[1].items())[0]
            yield f"base and tuned model have other weights in {name} ({odd})"


def _settings(folder: Path) -> set[str]:
    """Files that say how texts become vectors, beside the weights: pooling, prompts, length."""
    nested = {str(path.relative_to(folder)) for path in folder.glob("*/config.json")}
    return nested | {"modules.json", "config_sentence_transformers.json",
                     "sentence_bert_config.json"}  # fmt: skip


def _read(path: Path) -> Any:
    content = read_json(path)
    if isinstance(content, dict):
        content.pop("__version__", None)  # of the libraries that wrote it
    return content


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(_WEIGHTS))


def _mix(base: torch.Tensor, tuned: torch.Tensor, weight: float) -> torch.Tensor:
    """Interpolate in float64: equal numbers stay equal, and weight 1 gives the tuned ones."""
    if not tuned.is_floating_point():
        return tuned
    return (base.double() + weight * (tuned.double() - base.double())).to(tuned.dtype)


def _gain(base: Candidate, other: Candidate) -> float:
    return float(other.domain.mean() - base.domain.mean())


def _drop(base: Candidate, other: Candidate) -> float:
    if base.general is None or other.general is None:
        return 0.0
    return float(base.general.mean() - other.general.mean())


def _change(base: Candidate, other: Candidate) -> str:
    return f"{round(-100 * _drop(base, other), 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into 0.0


def _error(values: Values) -> float:
    """Standard error of the mean; of a single value nothing is sure."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf


def _shares(each: Candidate) -> str:
    return f"{each.weight:g} of the tuned weights and {1 - each.weight:g} of the base's"
