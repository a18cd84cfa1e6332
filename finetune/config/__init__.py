"""The vocabulary of a run: one dataclass a part, no defaults here (they stand in ``configs/``)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035 (OmegaConf reads these forms)

from finetune.config.augmentation import Augment
from finetune.config.choices import Hub, Lang, Precision, Search, Tracker
from finetune.config.pairs import Check, Domain, Generate, Mixed, Pseudo
from finetune.config.writing import Writer
from finetune.script import Encode, OpenCC


@dataclass(frozen=True)
class Paths:
    """Folders: the domains' data, C-MTEB's, the stage cache shared by all runs, and the runs."""

    data: Optional[Path]  # noqa: UP045
    cmteb: Optional[Path]  # noqa: UP045
    cache: Path
    runs: Path


@dataclass(frozen=True)
class Model:
    """The base model: where it lies, how it pools, what it was trained on, its licence."""

    name: str
    hub: Hub
    id: Optional[str]  # noqa: UP045
    revision: Optional[str]  # noqa: UP045
    path: Optional[Path]  # noqa: UP045
    pooling: str
    max_length: int
    prompts: Dict[str, str]  # noqa: UP006
    licence: str
    trained_on: List[str]  # noqa: UP006


@dataclass(frozen=True)
class Noise:
    """Pairs left out for their rank (`finetune.steps.noise`): those under ``cut``; 0: none."""

    cut: float


@dataclass(frozen=True)
class Mine:
    """Hard negatives: how many a pair, out of how many neighbours, how far below the positive.

    ``filter`` is a cross-encoder's folder or hub id (``owner/name@revision``).
    """

    rounds: int
    negatives: int
    candidates: int
    relative_margin: float
    filter: Optional[str]  # noqa: UP045
    filter_margin: float
    search: Search


@dataclass(frozen=True)
class Train:
    """Optimisation; ``batch_size`` in pairs, ``max_length`` in tokens (at most the model's own)."""

    epochs: float
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    dropout: float
    max_length: int
    checkpoints: int
    guard_share: float
    patience: int


@dataclass(frozen=True)
class Merge:
    """Shares of the tuned weights that are tried against forgetting; none leaves the model be."""

    weights: List[float]  # noqa: UP006
    keep_gain: float
    domain_texts: int
    general_texts: int


@dataclass(frozen=True)
class Distill:
    """A student that learns its teacher's vectors, with fewer layers or tokens (0: as many).

    ``min_kept`` is a fraction of the teacher's NDCG@10, ``min_speedup`` a multiple of its speed.
    """

    layers: int
    vocabulary: int
    teacher: Optional[Path]  # noqa: UP045
    texts: int
    min_kept: float
    min_speedup: float

    @property
    def asked(self) -> bool:
        """True where there is a student."""
        return bool(self.layers or self.vocabulary)


@dataclass(frozen=True)
class Hardware:
    """What the machine is asked to do; None: as the profile that fits the machine.

    ``processes`` of the run, ``threads`` on each machine; ``chunk``: texts whose activations a
    process holds at once; ``encode_tokens`` is what a batch holds when a torch model encodes,
    padding included; ``workers`` are processes that prepare training batches.
    """

    name: str
    device: str
    precision: Precision
    threads: int
    processes: int
    chunk: Optional[int]  # noqa: UP045
    attention: Optional[str]  # noqa: UP045
    compile: Optional[bool]  # noqa: UP045
    encode_tokens: Optional[int]  # noqa: UP045
    workers: Optional[int]  # noqa: UP045


@dataclass(frozen=True)
class Export:
    """Which artifacts are made, and how close to torch each must be, on how many texts."""

    precisions: List[str]  # noqa: UP006
    dim: Optional[int]  # noqa: UP045
    parity_texts: int
    floors: Dict[str, Dict[str, float]]  # noqa: UP006


@dataclass(frozen=True)
class Quantize:
    """How INT8 is fitted to the domain, and how close to fp32 it must stay without help."""

    weight_texts: int
    range_texts: int
    range_percentile: float
    centred_cosine: float
    top10_overlap: float
    max_fp32: float


@dataclass(frozen=True)
class Evaluate:
    """Statistics and gates; differences are fractions (a point is 0.01)."""

    samples: int
    alpha: float
    min_gain: float
    visible: float
    max_int8_drop: float
    scripts: Optional[bool]  # noqa: UP045
    max_script_gap: float
    max_latency_ms: Optional[float]  # noqa: UP045
    speed_texts: int
    machine_price: Optional[float]  # noqa: UP045
    currency: str
    general: Optional[Path]  # noqa: UP045
    max_general_drop: float
    cmteb_tasks: List[str]  # noqa: UP006
    cmteb_artifacts: List[str]  # noqa: UP006


@dataclass(frozen=True)
class Report:
    """How ``report.html`` is written."""

    lang: Lang


@dataclass(frozen=True)
class Tracking:
    """Where the run is recorded."""

    kind: Tracker
    uri: str
    experiment: str
    name: Optional[str]  # noqa: UP045
    parent: Optional[str]  # noqa: UP045


@dataclass(frozen=True)
class Config:
    """One run."""

    recipe: str
    seed: int
    limit: Optional[int]  # noqa: UP045
    until: Optional[str]  # noqa: UP045
    run_dir: Optional[Path]  # noqa: UP045
    script: str
    paths: Paths
    domain: Domain
    generate: Generate
    writer: Writer
    pseudo: Pseudo
    mix: Dict[str, Mixed]  # noqa: UP006
    check: Check
    opencc: OpenCC
    encode: Encode
    model: Model
    adapter: Dict[str, Any]  # noqa: UP006
    loss: Dict[str, Any]  # noqa: UP006
    noise: Noise
    mine: Mine
    augment: Augment
    distill: Distill
    train: Train
    merge: Merge
    hardware: Hardware
    export: Export
    quantize: Quantize
    evaluate: Evaluate
    report: Report
    tracking: Tracking


def artifact(precision: str) -> str:
    """Return what scores, reports and gates call a precision: ``onnx-fp32``, ``openvino-int8``."""
    return precision if precision.startswith("openvino") else f"onnx-{precision}"


def unset(path: str | Path | None) -> bool:
    """True for a path below ``paths.data``, which is not set."""
    return str(path).startswith("None/")


def to_dict(part: Any) -> Any:
    """Turn a config part into plain JSON values, for keys, manifests and ``config.yaml``."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {f.name: to_dict(getattr(part, f.name)) for f in dataclasses.fields(part)}
    if isinstance(part, Mapping):
        return {str(key): to_dict(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [to_dict(value) for value in part]
    if isinstance(part, Enum):
        return part.value
    return str(part) if isinstance(part, Path) else part
