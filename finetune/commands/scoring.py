"""`finetune evaluate`: score a model folder or a bundle on folders of any shape."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from finetune import report
from finetune.config import artifact as artifact_name
from finetune.config.choices import Kind
from finetune.data import beir, parts
from finetune.errors import UserError
from finetune.evaluation import chunks
from finetune.evaluation.artifacts import Outcome, outcome, score
from finetune.evaluation.lengths import at_lengths
from finetune.evaluation.remembered import Remembering
from finetune.evaluation.slices import slices
from finetune.inference import BundleInfo, Encoder, OnnxEncoder
from finetune.inference.bundle import is_bundle
from finetune.inference.script import converted, read_script
from finetune.progress import bar
from finetune.records import Score, write_json
from finetune.report.scores import measure
from finetune.sets import AnySet, EvaluationSet, RerankingSet

_SAMPLES = 2_000
_WINDOW = 512  # tokens; what most models of the family read
_SEED = 0


def evaluate(
    artifact: Path,
    folders: Sequence[Path],
    split: str,
    precision: str | None,
    *,
    chunked: bool = False,
) -> list[Score]:
    """Score an artifact on folders.

    Args:
        artifact: A bundle (every precision in it, or the one named, at every length that it may
            be cut to), or a model folder.
        folders: Of any shape that `finetune.data` reads; all are read, and their mistakes told,
            before any encoding.
        split: ``all``, or what selects or reports: a half of a folder's queries, of an STS-shaped
            one ``dev`` or ``test``, or a half where it has one of them only.
        precision: Of a bundle.
        chunked: Score retrieval sets a second time with long documents in pieces, as the artifact
            ``<name>+chunks``, whose differences are to the same artifact without.

    Raises:
        UserError: An artifact or a folder is none.
    """
    sets = [read(folder, split) for folder in folders]
    kinds = {each.name: slices(each, _WINDOW) for each in sets}
    rows: list[Score] = []
    for name, encoder in _all_lengths(artifact, precision):
        found = _score(name, encoder, sets)
        rows += measure({name: found}, _SAMPLES, _SEED, kinds)
        if chunked:
            whole = {"base": found, f"{name}+chunks": _in_chunks(name, encoder, sets)}
            both = measure(whole, _SAMPLES, _SEED, kinds)
            rows += [row for row in both if row.artifact != "base"]
    return rows


def outcomes(
    artifact: Path, sets: Sequence[AnySet], precision: str | None
) -> Iterator[tuple[str, dict[str, Outcome]]]:
    """Yield what each query got, by set, of a model folder or of every precision of a bundle.

    Raises:
        UserError: The artifact is none.
    """
    for name, encoder, _ in list(_encoders(artifact, precision)):
        yield name, _score(name, encoder, sets)


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


def _encoders(
    artifact: Path, precision: str | None
) -> Iterator[tuple[str, Encoder, Sequence[int]]]:
    """Yield name, encoder and the lengths that its vectors may be cut to."""
    if is_bundle(artifact):
        names = [precision] if precision else sorted(BundleInfo.read(artifact).precisions)
        for name in names:
            bundled = OnnxEncoder.load(artifact, name)
            yield artifact_name(name), bundled, bundled.info.dims
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
    encoder = converted(TorchEncoder(load(artifact)), read_script(artifact))
    yield "tuned" if tuned else "base", encoder, ()


def _all_lengths(artifact: Path, precision: str | None) -> Iterator[tuple[str, Encoder]]:
    for name, whole, dims in list(_encoders(artifact, precision)):
        for suffix, encoder in at_lengths(Remembering(whole) if dims else whole, dims):
            yield name + suffix, encoder


def _score(name: str, encoder: Encoder, sets: Sequence[AnySet]) -> dict[str, Outcome]:
    found = {}
    for each in sets:
        with bar(f"{name}: {each.name}", len(each.prompted)) as progress:
            found[each.name] = score(encoder, each, progress=progress)
    return found


def _in_chunks(name: str, encoder: Encoder, sets: Sequence[AnySet]) -> dict[str, Outcome]:
    found = {}
    for each in sets:
        if isinstance(each, EvaluationSet) and not isinstance(each, RerankingSet):
            with bar(f"{name}+chunks: {each.name}", len(each.prompted)) as progress:
                ranked = chunks.rank(encoder, each, progress=progress)
            found[each.name] = outcome(ranked, each.qrels)
    return found


def read(folder: Path, split: str) -> AnySet:
    """Read a folder, or the part of it that a split names.

    Raises:
        UserError: With every problem found.
    """
    splits = parts.read(folder, Kind.scored if beir.kind(folder) == "sts" else Kind.pairs)
    if split == "all":
        return splits.get("test") or splits["dev"]
    kept = parts.part(splits, split)
    if not kept.questions:
        raise UserError(f"{folder}: nothing falls into the {split} half; use --split all")
    return kept
