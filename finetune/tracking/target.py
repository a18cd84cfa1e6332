"""What is recorded where: all that a recorder must know of a run, as JSON can keep it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import Config, to_dict
from finetune.tracking.curves import metric_name

# What says where and how far, not what: two runs that differ only here are the same run.
_NO_PARAMETERS = ("paths", "run_dir", "until", "tracking")
_LONGEST_VALUE = 6_000  # MLflow's limit of a parameter


@dataclass(frozen=True)
class Target:
    """A run's place in MLflow.

    Attributes:
        uri: Of the tracking server or database.
        experiment: In which the run stands.
        parent: Id of the run above it, or None.
        name: What the run is called.
        parameters: Of the run, by key.
        model: What its bundle is registered as.
    """

    uri: str
    experiment: str
    parent: str | None
    name: str
    parameters: Mapping[str, str]
    model: str = ""

    @classmethod
    def of(cls, config: Config, run_dir: Path) -> "Target":
        """Read it from a configuration."""
        where = config.tracking
        return cls(
            where.uri, where.experiment, where.parent, where.name or run_dir.name,
            parameters(config), f"{config.domain.name}-{config.model.name}",
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Same for the same parameters in the same place."""
        return digest_of([self.uri, self.experiment, self.parameters])


def place_of(run_dir: Path, target_digest: str) -> str:
    """What no other run on no other machine has."""
    return digest_of([os.uname().nodename, str(run_dir.absolute()), target_digest])[:16]


def parameters(config: Config) -> dict[str, str]:
    """Flatten the configuration: ``train.learning_rate`` and so on, values as text."""
    content = {key: v for key, v in to_dict(config).items() if key not in _NO_PARAMETERS}
    return {key: str(value)[:_LONGEST_VALUE] for key, value in _leaves(content)}


def digest_of(value: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def as_json(target: Target) -> dict[str, Any]:
    """What ``Target(**content)`` reads again."""
    return dataclasses.asdict(target)


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield metric_name(f"{prefix}{key}"), value
