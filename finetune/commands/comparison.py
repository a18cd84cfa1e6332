"""What `finetune compare` compares: runs, bundles and model folders.

Runs are compared by what their queries got, which lies in ``<run_dir>/outcomes``; nothing is
encoded. With ``--data`` everything is scored anew, so that bundles and model folders take part.
Runs whose configurations differ in the seed alone count as one system, trained several times.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.commands import scoring
from finetune.errors import UserError, nearest
from finetune.evaluation.artifacts import read_outcome
from finetune.records import read_json
from finetune.report.comparison import System
from finetune.report.facts import SETS

# Two runs that differ only here were trained the same way.
_NOT_THE_METHOD = ("seed", "run_dir", "until", "paths", "tracking")


def read(paths: Sequence[Path], artifacts: Sequence[str]) -> list[System]:
    """Read what the queries of finished runs got.

    Args:
        paths: Run directories.
        artifacts: Of each run; none for the tuned model.

    Raises:
        UserError: Something is no run, lacks an artifact, or was measured on another set.
    """
    found: dict[str, list[tuple[Path, str]]] = {}
    digests: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        for name, digest in _sets(path).items():
            digests.setdefault(name, {}).setdefault(digest, []).append(str(path))
        for artifact in artifacts or ["tuned"]:
            if not (path / "outcomes" / artifact).is_dir():
                there = sorted(p.name for p in (path / "outcomes").iterdir() if p.is_dir())
                raise UserError(f"{path}: no artifact {artifact!r}; {nearest(artifact, there)}")
            method = json.dumps([artifact, _method(path)], sort_keys=True)
            found.setdefault(method, []).append((path, artifact))
    for name, runs in digests.items():
        if len(runs) > 1:
            places = "; ".join(min(each) for each in runs.values())
            raise UserError(
                f"compare: {name} is not the same set in all runs ({places}); name folders on "
                "which all are scored anew: --data <folder>"
            )
    groups = [group for each in found.values() for group in _by_seed(each)]
    return [_system(group, len(artifacts) > 1) for group in groups]


def score(
    paths: Sequence[Path],
    artifacts: Sequence[str],
    folders: Sequence[Path],
    split: str,
) -> list[System]:
    """Score runs, bundles and model folders on folders.

    Raises:
        UserError: One of them is nothing of the kind.
    """
    sets = [scoring.read(folder, split) for folder in folders]
    return [
        System(f"{path}: {name}", {each: (outcome,) for each, outcome in found.items()})
        for path in paths
        for folder, precision in _models(path, artifacts)
        for name, found in scoring.outcomes(folder, sets, precision)
    ]


def _models(path: Path, artifacts: Sequence[str]) -> Iterator[tuple[Path, str | None]]:
    """Yield the folder and the precision of each artifact of a run, or of a model itself."""
    run = (path / "report.json").is_file()
    for artifact in artifacts or ["tuned" if run else ""]:
        if run and artifact == "base":
            raise UserError(f"{path}: a run holds no base; name the base's own folder beside it")
        precision = artifact.removeprefix("onnx-") if artifact.startswith("onnx-") else None
        folder = path / ("bundle" if precision else "model") if run else path
        yield folder, precision


def _sets(path: Path) -> dict[str, str]:
    """Digests of the sets that a run was measured on."""
    if (path / "outcomes" / SETS).is_file():
        digests: dict[str, str] = read_json(path / "outcomes" / SETS)
        return digests
    if (path / "report.json").is_file():
        raise UserError(
            f"{path}: a run of an older version, without {path / 'outcomes'}; repeat its command "
            "(what it trained is not trained again), or name folders: --data <folder>"
        )
    if (path / "bundle.json").is_file() or (path / "modules.json").is_file():
        raise UserError(f"{path}: a model; name folders on which all are scored: --data <folder>")
    raise UserError(
        f"{path}: no finished run (outcomes/{SETS}), no bundle (bundle.json) and no model folder "
        "(modules.json); name run directories"
    )


def _method(path: Path) -> dict[str, Any]:
    config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key not in _NOT_THE_METHOD}


def _by_seed(runs: Sequence[tuple[Path, str]]) -> list[list[tuple[Path, str, int]]]:
    """Group runs of one method: together where all seeds differ, else each by itself."""
    seeded = [(path, artifact, _seed(path)) for path, artifact in runs]
    if len({seed for _, _, seed in seeded}) == len(seeded):
        return [seeded]
    return [[each] for each in seeded]


def _seed(path: Path) -> int:
    return int(yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))["seed"])


def _system(runs: Sequence[tuple[Path, str, int]], several: bool) -> System:
    name = runs[0][0].resolve().name
    if len(runs) > 1:
        name += f" (seeds {', '.join(str(seed) for _, _, seed in runs)})"
    found = [
        {file.stem: read_outcome(file) for file in (path / "outcomes" / artifact).glob("*.jsonl")}
        for path, artifact, _ in runs
    ]
    shared = [each for each in sorted(found[0]) if all(each in outcomes for outcomes in found)]
    return System(
        f"{name}: {runs[0][1]}" if several else name,
        {each: tuple(outcomes[each] for outcomes in found) for each in shared},
    )
