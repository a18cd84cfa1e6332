"""C-MTEB through mteb: its tasks, run with any encoder, beside the scores that were published.

mteb imports torch and is loaded only when a task runs. ``cmteb.json`` beside this file holds the
tasks of ``MTEB(cmn, v1)`` and the published scores with their source.
"""

import hashlib
import importlib.metadata
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import Model
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.inference import Encoder

_FACTS: Mapping[str, Any] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
BENCHMARK = "MTEB(cmn, v1)"
STEP = "cmteb-"  # how names of steps begin
TASKS: Mapping[str, str] = _FACTS["tasks"]  # kind by name
# Published pair classification is average precision; mteb's own main score there is accuracy.
_METRICS = {"PairClassification": "cosine_ap"}
_SYMMETRIC = ("STS", "PairClassification", "Classification", "Clustering")


def version() -> str:
    """Version of mteb, which decides what a task is; part of a result's key.

    Raises:
        UserError: When mteb is not installed.
    """
    try:
        return importlib.metadata.version("mteb")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            "evaluate.cmteb: mteb is not installed: pip install 'finetune[cmteb]'"
        ) from error


def run(name: str, encoder: "Encoder", artifact: str, folder: Path | None, out: Path) -> None:
    """Run one task; write mteb's own result to ``<out>/<name>.json``.

    Args:
        name: One of `TASKS`.
        encoder: Any encoder.
        artifact: What mteb's result calls the model.
        folder: A local copy of the task's hub repository; None takes the hub's.
        out: Folder that gets the file.

    Raises:
        UserError: When the data cannot be had.
    """
    import mteb

    benchmark = mteb.get_benchmark(BENCHMARK)  # its tasks know which split counts
    # Its own: mteb hands out the same objects again, with what they have loaded.
    (task,) = [copy(each) for each in benchmark.tasks if each.metadata.name == name]
    with tempfile.TemporaryDirectory() as temporary:
        if folder is not None:
            path = _of_its_own(folder, Path(temporary))
            local = {**task.metadata.dataset, "path": str(path), "revision": "local"}
            task.metadata = task.metadata.model_copy(update={"dataset": local})
        _load(task, name, folder)
        results = mteb.evaluate(
            _Model(encoder, artifact), task, cache=None, co2_tracker=False, show_progress_bar=False
        )
    results.task_results[0].to_disk(out / f"{name}.json")


def _of_its_own(folder: Path, links: Path) -> Path:
    """Link a folder under a name that tells its files.

    The library `datasets` knows what it has converted by the folder's name, not by what is in it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    told = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
            for path in files]  # fmt: skip
    digest = hashlib.sha256(repr((str(folder.resolve()), told)).encode()).hexdigest()
    link = links / f"{folder.name}-{digest[:16]}"
    link.symlink_to(folder.resolve())
    return link


def result(folder: Path) -> Path | None:
    """The result of `run` in the folder of its step; None where the artifact was not published."""
    return next((path for path in sorted(folder.glob("*.json")) if path.stem in TASKS), None)


def read(path: Path) -> dict[str, Any]:
    """Read what `run` wrote: ``task``, ``type``, ``metric``, ``value`` (fraction), ``split``."""
    content = json.loads(path.read_text(encoding="utf-8"))
    name = content["task_name"]
    found = content["scores"]
    # MultilingualSentiment alone is run on two splits; its published scores are of validation.
    split = "validation" if "validation" in found else next(iter(found))
    scores, *_ = found[split]
    metric = _METRICS.get(TASKS[name], "main_score")
    return {
        "task": name,
        "type": TASKS[name],
        "metric": metric,
        "value": float(scores[metric]),
        "split": split,
    }


def rows(
    inputs: Mapping[str, Path], base: Model, data_summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Gather the scores of all tasks that were run, a row an artifact and task.

    Args:
        inputs: Folders of steps by name; those called ``cmteb-<artifact>-<task>`` are read.
        base: The base model, whose published scores stand beside its own.
        data_summary: Of the training data: what the tuned model was trained on besides.

    Returns:
        What `read` returns, with ``artifact``, ``published`` (a fraction; None where nothing was)
        and ``contaminated``.
    """
    trained = {*base.trained_on, *data_summary.get("sources", ())}
    found = []
    for step, folder in inputs.items():
        if step.startswith(STEP) and (path := result(folder)):
            row = read(path)
            artifact = step.removeprefix(STEP).removesuffix(f"-{row['task']}")
            seen = base.trained_on if artifact == "base" else trained
            found.append({
                "artifact": artifact,
                **row,
                "published": published(base.id, row["task"]) if artifact == "base" else None,
                "contaminated": contaminated(row["task"], seen),
            })  # fmt: skip
    return found


def published(model: str | None, name: str) -> float | None:
    """The published score of a hub id on a task, a fraction; None where there is none."""
    value = _FACTS["scores"].get(model, {}).get(name)
    return None if value is None else value / 100


def contaminated(name: str, seen: Iterable[str]) -> bool:
    """Say whether data of a task's name was trained on; spelling does not count."""
    return _plain(name) in {_plain(each) for each in seen}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _load(task: Any, name: str, folder: Path | None) -> None:
    from datasets.exceptions import DatasetNotFoundError

    try:
        task.load_data()
    except (OSError, ValueError, DatasetNotFoundError) as error:
        where = f"in {folder}" if folder else f"from the hub ({task.metadata.dataset['path']})"
        raise UserError(
            f"evaluate.cmteb: the data of {name} cannot be had {where}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; put a copy of "
            f"the hub's repository into <folder>/{name} and set paths.cmteb=<folder>"
        ) from error


class _Model:
    """An encoder as mteb asks for one."""

    def __init__(self, encoder: "Encoder", artifact: str) -> None:
        from mteb.models.model_meta import ModelMeta

        self._encoder = encoder
        overwrites = {"name": f"finetune/{artifact}", "revision": "local",
                      "embed_dim": encoder.dim, "similarity_fn_name": "cosine"}  # fmt: skip
        self.mteb_model_meta = ModelMeta.create_empty(overwrites)

    def encode(
        self, inputs: Iterable[Mapping[str, Sequence[str]]], *, task_metadata: Any,
        prompt_type: Any = None, **kwargs: Any,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Encode batches of texts; of symmetric tasks both sides are queries."""
        texts = [text for batch in inputs for text in batch["text"]]
        document = getattr(prompt_type, "value", prompt_type) == "document"
        passage = document and task_metadata.type not in _SYMMETRIC
        return self._encoder.encode(texts, "passage" if passage else "query")

    def similarity(self, one: Any, other: Any) -> Any:
        """Cosines of all with all; vectors have unit length."""
        import torch

        return torch.as_tensor(np.asarray(one) @ np.asarray(other).T)

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        """Cosine of each with its counterpart."""
        import torch

        return torch.as_tensor(np.einsum("nd,nd->n", np.asarray(one), np.asarray(other)))
