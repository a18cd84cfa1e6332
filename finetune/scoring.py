"""`finetune evaluate`: score a model folder or a bundle on BEIR- and STS-shaped folders."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from finetune import report
from finetune.data import beir
from finetune.errors import UserError
from finetune.evaluation import retrieval, sts
from finetune.evaluation.artifacts import Outcome, outcome
from finetune.inference import BundleInfo, Encoder, OnnxEncoder
from finetune.inference.bundle import is_bundle
from finetune.progress import bar
from finetune.records import EvaluationSet, Score, Scored, half, write_json
from finetune.report.scores import measure

Metric = Callable[[NDArray[np.floating], NDArray[np.floating]], float]

_SAMPLES = 2_000
_SEED = 0


def evaluate(
    artifact: Path, folders: Sequence[Path], split: str, precision: str | None
) -> list[Score]:
    """Score an artifact on folders.

    Args:
        artifact: A bundle (every precision in it, or the one named), or a model folder.
        folders: BEIR- or STS-shaped; all are read, and their mistakes told, before any encoding.
        split: ``all``, or one half of a BEIR-shaped folder's queries.
        precision: Of a bundle.

    Raises:
        UserError: An artifact or a folder is none.
    """
    encoders = list(_encoders(artifact, precision))
    sets = [_read(folder, split) for folder in folders]
    rows: list[Score] = []
    for name, encoder in encoders:
        retrieved: dict[str, Outcome] = {}
        for each in sets:
            if isinstance(each, EvaluationSet):
                with bar(f"{name}: {each.name}", len(each.queries) + len(each.corpus)) as progress:
                    ranking = retrieval.rank(encoder, each, progress=progress)
                retrieved[each.name] = outcome(ranking, each.qrels)
            else:
                rows += _score_pairs(name, encoder, *each)
        rows += measure({name: retrieved}, _SAMPLES, _SEED)
    return rows


def show(scores: Sequence[Score]) -> None:
    """Print the scores as a table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("artifact", "set", "metric"):
        table.add_column(name, overflow="fold")
    for number in ("value", "95 % interval", "n"):
        table.add_column(number, justify="right", no_wrap=True)
    for row in scores:
        interval = f"{row.ci_low:.4f} – {row.ci_high:.4f}"
        names = (
            Text(row.artifact),
            Text(row.set),
            Text(row.metric),
        )  # no markup in a folder's name
        table.add_row(*names, f"{row.value:.4f}", interval, str(row.n))
    report.show(table)


def save(scores: Sequence[Score], path: Path) -> None:
    """Write ``{"scores": [...]}``, rows as in ``report.json``."""
    write_json(path, {"scores": [dataclasses.asdict(row) for row in scores]})


def _encoders(artifact: Path, precision: str | None) -> Iterator[tuple[str, Encoder]]:
    if is_bundle(artifact):
        names = [precision] if precision else sorted(BundleInfo.read(artifact).precisions)
        for name in names:
            yield f"onnx-{name}", OnnxEncoder.load(artifact, name)
        return
    if not (artifact / "modules.json").is_file():
        raise UserError(
            f"{artifact}: neither a bundle (bundle.json) nor a model folder (modules.json); name "
            "<run_dir>/bundle or <run_dir>/model"
        )
    if precision:
        raise UserError(f"--precision {precision}: {artifact} is a model folder; bundles have them")
    from finetune.model import TorchEncoder, load

    tuned = (artifact.parent / "report.json").is_file()
    yield "tuned" if tuned else "base", TorchEncoder(load(artifact))


def _read(folder: Path, split: str) -> EvaluationSet | tuple[str, list[Scored]]:
    if beir.kind(folder) == "sts":
        return folder.name, beir.read_sts(folder)
    found = beir.read_folder(folder)
    if split == "all":
        return found
    kept = found.only({query for query in found.queries if half(query) == split})
    if not kept.queries:
        raise UserError(f"{folder}: no query falls into the {split} half; use --split all")
    return kept


def _score_pairs(
    artifact: str, encoder: Encoder, name: str, rows: Sequence[Scored]
) -> Iterator[Score]:
    cosines = sts.similarities(encoder, rows)
    truth = np.array([row.score for row in rows])
    metrics: dict[str, Metric] = {"spearman": sts.spearman}
    if set(truth.tolist()) == {0.0, 1.0}:
        metrics["ap"] = sts.average_precision
    rng = np.random.default_rng(_SEED)
    samples = [rng.integers(0, len(rows), len(rows)) for _ in range(_SAMPLES // 10)]
    for metric, function in metrics.items():
        resampled = [function(cosines[sample], truth[sample]) for sample in samples]
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        value = function(cosines, truth)
        yield Score(artifact, name, metric, value, len(rows), float(low), float(high))
