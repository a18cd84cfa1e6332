"""What an MLflow run holds, and how it gets there; every function may meet a dead server."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import Config, to_dict
from finetune.stage import git_commit
from finetune.tracking.curves import metric_name, metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What says where and how far, not what: two runs that differ only here are the same run.
_NO_PARAMETERS = ("paths", "run_dir", "until", "tracking")
_FILES = ("report.html", "report.json", "README.md", "config.yaml")
_LONGEST_VALUE = 6_000  # MLflow's limit of a parameter
_LONGEST_TAG = 5_000


def parameters(config: Config) -> dict[str, str]:
    """Flatten the configuration: ``train.learning_rate`` and so on, values as text."""
    content = {key: v for key, v in to_dict(config).items() if key not in _NO_PARAMETERS}
    return {key: str(value)[:_LONGEST_VALUE] for key, value in _leaves(content)}


def report_digest(report: Mapping[str, Any]) -> str:
    """Digest of all that a report says, except how long its steps took and which were cached."""
    stages = [[stage["name"], stage["key"]] for stage in report["stages"]]
    text = json.dumps({**report, "stages": stages}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def open_run(
    client: "MlflowClient",
    experiment: str,
    name: str,
    run_id: str | None,
    params: Mapping[str, str],
    parent: str | None = None,
) -> str:
    """Continue a run, or create it with its parameters, below a parent or not; return its id."""
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
            adopt(client, run_id, parent)
            return run_id
        except MlflowException as error:
            # Deleted, or the database was; anything else (away) is the caller's business.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    tags = {
        "mlflow.source.git.commit": git_commit(),
        "mlflow.source.name": "finetune",
        "mlflow.source.type": "LOCAL",
    }
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    _log(client, run.info.run_id, params=params)
    adopt(client, run.info.run_id, parent)
    return str(run.info.run_id)


def adopt(client: "MlflowClient", run_id: str, parent: str | None) -> None:
    """Put a run below another; nothing where there is none."""
    if parent is not None:
        client.set_tag(run_id, "mlflow.parentRunId", parent)


def log_rows(
    client: "MlflowClient", run_id: str, rows: Sequence[Mapping[str, Any]], before: int = 0
) -> None:
    """Log rows of curves; a row sent twice counts once, since it carries its own time."""
    _log(client, run_id, values=[
        (key, value, int(1000 * row.get("time", 0)), int(row["step"]) + before)
        for row in rows
        if "step" in row
        for key, value in metrics(row).items()
    ])  # fmt: skip


def log_report(client: "MlflowClient", run_id: str, report: Mapping[str, Any]) -> None:
    """Log every score and speed as a metric, verdict and gates as tags, the data as input."""
    now = int(1000 * time.time())
    tags = {f"gate.{gate['name']}": gate["status"] for gate in report["gates"]}
    tags |= {"verdict": report["verdict"], "mlflow.note.content": report["verdict"]}
    values = [(metric_name(key), value, now, 0) for key, value in _scores(report)]
    _log(client, run_id, values=values, tags=tags)
    _log_data(client, run_id, report)


def log_values(client: "MlflowClient", run_id: str, values: Mapping[str, float], now: int) -> None:
    """Log single values, at a time in milliseconds."""
    _log(client, run_id, values=[(metric_name(key), v, now, 0) for key, v in values.items()])


def log_files(client: "MlflowClient", run_id: str, run_dir: Path) -> None:
    """Log the report, the card, the configuration and the plots, as far as they are there."""
    for name in _FILES:
        if (run_dir / name).is_file():
            client.log_artifact(run_id, str(run_dir / name))
    if (run_dir / "plots").is_dir():
        client.log_artifacts(run_id, str(run_dir / "plots"), "plots")


def _scores(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for row in (*report["scores"], *report.get("baselines", ())):
        key = f"{row['artifact']}/{row['set']}/{row['metric']}"
        yield key, row["value"]
        if row["delta"] is not None:
            yield f"{key}_delta", row["delta"]
    for row in report["speed"]:
        for name, value in row.items():
            if name != "artifact":
                yield f"{row['artifact']}/{name}", float(value)


def _log_data(client: "MlflowClient", run_id: str, report: Mapping[str, Any]) -> None:
    """Log the data set; its digest is the data step's key, which covers files and settings."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    key = next((stage["key"] for stage in report["stages"] if stage["name"] == "data"), None)
    summary = json.dumps(report["data"], ensure_ascii=False)
    digest = key or hashlib.sha256(summary.encode("utf-8")).hexdigest()
    about = report["about"]
    dataset = Dataset(
        name=about["domain"],
        digest=digest[:16],
        source_type="local",
        source=json.dumps({"domain": about["domain"]}, ensure_ascii=False),
        profile=summary,
    )
    client.log_inputs(
        run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    )


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


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield metric_name(f"{prefix}{key}"), value
