"""What an MLflow run holds, and how it gets there; every function may meet a dead server."""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.records import read_json
from finetune.stage import git_commit
from finetune.tracking.curves import CURVES, metric_name, metrics
from finetune.tracking.target import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_FILES = ("report.html", "report.json", "README.md", "config.yaml")
_LONGEST_TAG = 5_000
_PLACE = "finetune.place"
# Its pages show runs and charts, not traces of chat models.
_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}

Point = tuple[str, int]  # name of a metric and step


def report_digest(report: Mapping[str, Any]) -> str:
    """Digest of all that a report says, except how long its steps took and which were cached."""
    stages = [[stage["name"], stage["key"]] for stage in report["stages"]]
    text = json.dumps({**report, "stages": stages}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def open_run(
    client: "MlflowClient",
    target: Target,
    place: str,
    run_id: str | None,
) -> str:
    """Continue a run, or create it with its parameters, below a parent or not; return its id.

    Args:
        client: Of the server.
        target: What the run is.
        place: What no other run has; a run that was made, and whose id got lost on its way here, is
            found by it.
        run_id: Of the run where it is known.
    """
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
            adopt(client, run_id, target.parent)
            return run_id
        except MlflowException as error:
            # Deleted, or the database was; anything else (away) is the caller's business.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    run_id = _made(client, target, place)
    _log(client, run_id, params=target.parameters)
    adopt(client, run_id, target.parent)
    return run_id


def _made(client: "MlflowClient", target: Target, place: str) -> str:
    found = client.get_experiment_by_name(target.experiment)
    experiment_id = (
        found.experiment_id if found
        else client.create_experiment(target.experiment, tags=_EXPERIMENT)
    )  # fmt: skip
    there = client.search_runs([experiment_id], f"tags.`{_PLACE}` = '{place}'", max_results=1)
    if there:
        return str(there[0].info.run_id)
    tags = {
        _PLACE: place,
        "mlflow.source.git.commit": git_commit(),
        "mlflow.source.name": "finetune",
        "mlflow.source.type": "LOCAL",
    }
    return str(client.create_run(experiment_id, run_name=target.name, tags=tags).info.run_id)


def adopt(client: "MlflowClient", run_id: str, parent: str | None) -> None:
    """Put a run below another; nothing where there is none."""
    if parent is not None:
        client.set_tag(run_id, "mlflow.parentRunId", parent)


def known_points(client: "MlflowClient", run_id: str) -> set[Point]:
    """Points of the curves that a run has: a resumed training writes some of its rows again."""
    names = [key for key in client.get_run(run_id).data.metrics if key.startswith(CURVES)]
    return {(key, point.step) for key in names for point in client.get_metric_history(run_id, key)}


def log_rows(
    client: "MlflowClient",
    run_id: str,
    rows: Sequence[Mapping[str, Any]],
    before: int = 0,
    known: Collection[Point] = (),
) -> None:
    """Log rows of curves, but for points that are known.

    A row that is sent twice in one process counts once: MLflow keeps one of equal points, and each
    row carries its own time.
    """
    points = [
        (key, value, int(1000 * row.get("time", 0)), int(row["step"]) + before)
        for row in rows
        if "step" in row
        for key, value in metrics(row).items()
    ]
    _log(client, run_id, values=[each for each in points if (each[0], each[3]) not in known])


def log_report(
    client: "MlflowClient", run_id: str, report: Mapping[str, Any], run_dir: Path
) -> None:
    """Log every score and speed as a metric, verdict and gates as tags, the data as inputs."""
    tags = outcome_tags(report) | {"mlflow.note.content": report["verdict"]}
    _log(client, run_id, tags=tags)
    log_values(client, run_id, dict(_scores(report)), int(1000 * time.time()))
    _log_data(client, run_id, report, run_dir / "outcomes" / "sets.json")


def outcome_tags(report: Mapping[str, Any]) -> dict[str, str]:
    """How a run came out: its verdict, and its gates."""
    gates = {f"gate.{gate['name']}": gate["status"] for gate in report["gates"]}
    return {**gates, "verdict": report["verdict"]}


def describe(client: "MlflowClient", run_id: str, text: str) -> None:
    """Put a text, in Markdown, on a run's page."""
    _log(client, run_id, tags={"mlflow.note.content": text})


def log_values(client: "MlflowClient", run_id: str, values: Mapping[str, float], now: int) -> None:
    """Log single values, at a time in milliseconds, but for those that the run has."""
    known = client.get_run(run_id).data.metrics
    named = {metric_name(key): value for key, value in values.items()}
    _log(client, run_id, values=[
        (key, value, now, 0) for key, value in named.items() if known.get(key) != value
    ])  # fmt: skip


def log_files(client: "MlflowClient", run_id: str, run_dir: Path, outcomes: Path | None) -> None:
    """Log the report, the card, the configuration and the plots, as far as they are there.

    And ``outcomes``: what each query got from what is served, with which later runs are compared.
    """
    for name in _FILES:
        if (run_dir / name).is_file():
            client.log_artifact(run_id, str(run_dir / name))
    if (run_dir / "plots").is_dir():
        client.log_artifacts(run_id, str(run_dir / "plots"), "plots")
    if outcomes and outcomes.is_dir():
        client.log_artifact(run_id, str(outcomes.with_name("sets.json")), "outcomes")
        client.log_artifacts(run_id, str(outcomes), "outcomes")


def _scores(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for row in (*report["scores"], *report.get("baselines", ())):
        if "/" in row["set"] and row["artifact"] != "tuned":
            continue  # kinds of queries, of every artifact, would bury the rest
        key = f"{row['artifact']}/{row['set']}/{row['metric']}"
        yield key, row["value"]
        if row["delta"] is not None:
            yield f"{key}_delta", row["delta"]
    for row in report["speed"]:
        for name, value in row.items():
            if name != "artifact":
                yield f"{row['artifact']}/{name}", float(value)


def _log_data(client: "MlflowClient", run_id: str, report: Mapping[str, Any], sets: Path) -> None:
    """Log the training data and each evaluation set.

    The training data's digest is the data step's key, which covers files and settings, a set's that
    of its texts.
    """
    key = next((stage["key"] for stage in report["stages"] if stage["name"] == "data"), None)
    summary = json.dumps(report["data"], ensure_ascii=False)
    digest = key or hashlib.sha256(summary.encode("utf-8")).hexdigest()
    inputs = [_input(report["about"]["domain"], digest, "training", summary)]
    counts = {row["set"]: row["n"] for row in report["scores"]}
    digests: Mapping[str, str] = read_json(sets) if sets.is_file() else {}
    for name, digest in digests.items():
        profile = json.dumps({"measured": counts.get(name)})
        inputs.append(_input(name, digest, "evaluation", profile))
    client.log_inputs(run_id, inputs)


def _input(name: str, digest: str, context: str, profile: str) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"name": name}, ensure_ascii=False)
    dataset = Dataset(name, digest[:16], "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _log(
    client: "MlflowClient",
    run_id: str,
    *,
    values: Sequence[tuple[str, float, int, int]] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log any number of things; MLflow takes 1,000 metrics, 100 parameters or tags a request."""
    from mlflow.entities import Metric, Param, RunTag

    for metrics_ in _batches([Metric(*value) for value in values], 1_000):
        client.log_batch(run_id, metrics=metrics_)
    for params_ in _batches([Param(key, value) for key, value in (params or {}).items()], 100):
        client.log_batch(run_id, params=params_)
    named = [RunTag(key, value[:_LONGEST_TAG]) for key, value in (tags or {}).items()]
    for tags_ in _batches(named, 100):
        client.log_batch(run_id, tags=tags_)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
