"""Which version of a registered model is ``champion``, and which is ``challenger``.

Only a version whose run passed moves an alias: the gate on the domain passed, and none failed. The
first is the champion. A later one takes its place where it is significantly better on the same
questions, as both are served; else it is the challenger, and somebody decides.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluation.artifacts import read_outcome
from finetune.evaluation.statistics import compare
from finetune.records import read_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
_DECIDING = ("gain", "distill")  # gates
_ALPHA = 0.05
_SAMPLES = 10_000


def move(
    client: "MlflowClient", version: "ModelVersion", report: Mapping[str, Any], outcome: Path
) -> None:
    """Give a version the alias that it deserves, if any.

    Args:
        client: Of the registry.
        version: The version.
        report: Of its run.
        outcome: What each query of the domain's set got from it, ``sets.json`` one folder above.
    """
    if not deserves(report["gates"]):
        return
    name, number = version.name, version.version
    champion = _holder(client, name, CHAMPION)
    if champion is not None and champion.version == number:
        return
    if champion is None or _better(client, champion, outcome):
        client.set_registered_model_alias(name, CHAMPION, number)
        challenger = _holder(client, name, CHALLENGER)
        if challenger is not None and challenger.version == number:
            client.delete_registered_model_alias(name, CHALLENGER)
        log.info("mlflow: %s version %s is the champion", name, number)
    else:
        client.set_registered_model_alias(name, CHALLENGER, number)
        log.info("mlflow: %s version %s is the challenger; the champion is version %s",
                 name, number, champion.version)  # fmt: skip


def deserves(gates: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a run's gates let it move an alias."""
    status = {gate["name"]: gate["status"] for gate in gates}
    passed = any(status.get(name) == "passed" for name in _DECIDING)
    return passed and "failed" not in status.values()


def _holder(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    held = client.get_registered_model(name).aliases.get(alias)
    return client.get_model_version(name, str(held)) if held else None


def _better(client: "MlflowClient", champion: "ModelVersion", outcome: Path) -> bool:
    """Compare a version with the champion on the questions that both answered."""
    run_id = str(champion.run_id)
    there = {item.path for item in client.list_artifacts(run_id, "outcomes")}
    if f"outcomes/{outcome.name}" not in there or not outcome.is_file():
        return False
    with tempfile.TemporaryDirectory() as folder:
        held = Path(client.download_artifacts(run_id, "outcomes", folder))
        sets = read_json(held / "sets.json"), read_json(outcome.parents[1] / "sets.json")
        if len({each.get(outcome.stem) for each in sets}) > 1:
            return False  # other texts under the same name
        before, after = read_outcome(held / outcome.name), read_outcome(outcome)
    if before.queries != after.queries:
        return False
    found = compare(before.metrics[before.main], after.metrics[after.main], _SAMPLES)
    return found.delta > 0 and found.p_value < _ALPHA
