"""The vocabulary of a run: one dataclass a part, no defaults here (they stand in ``configs/``).

`compose` turns command-line overrides into a checked `Config`, or raises one `UserError` that
holds every problem found: unknown groups, keys and values with the nearest valid name, wrong
types, and settings that cannot work together.
"""

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Dict, List, Optional, cast  # noqa: UP035 (OmegaConf reads these forms)

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.errors import UserError

_PACKAGE = Path(__file__).parent
# A clone keeps configs/ beside the package; an installed wheel carries them inside it.
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "configs/default.yaml").is_file() else _PACKAGE
GROUPS = ("recipes", "domain", "model", "loss", "mine", "train", "hardware", "export", "evaluate",
          "tracking")  # fmt: skip
PRECISIONS = ("fp32", "int8-dynamic")  # artifacts that ``export.precisions`` may name

# A number must be greater than the first and at most the second.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (-1, 2**32 - 1),  # what numpy takes
    "limit": (0, math.inf),
    "mine.rounds": (-1, 1),
    "mine.negatives": (-1, 32),
    "mine.relative_margin": (-1e-9, 1),
    "train.epochs": (0, 1_000),
    "train.batch_size": (1, 65_536),
    "train.learning_rate": (0, 1),
    "train.warmup": (-1e-9, 1),
    "train.weight_decay": (-1e-9, 1),
    "train.max_length": (7, math.inf),
    "train.checkpoints": (0, 1_000),
    "train.guard_share": (0, 1),
    "hardware.threads": (-1, 1_024),
    "export.parity_texts": (1, math.inf),
    "evaluate.samples": (99, 1_000_000),
    "evaluate.alpha": (0, 1),
    "evaluate.speed_texts": (0, math.inf),
}
_CHOICES = {"model.pooling": ("mean", "cls"), "hardware.device": ("auto", "cpu", "cuda"),
            "export.precisions": PRECISIONS}  # fmt: skip

# What Hydra's grammar takes for no part of a plain value: Chinese, and signs that paths hold.
_ODD = re.compile(r"[^\x00-\x7f]|[~#&!;=]")
_WORD = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s,:'\"\[\]{}()]+")


class Source(Enum):
    """Where a domain's data comes from: the user's files, or the embedded law articles."""

    files = "files"
    statutes = "statutes"


class Hub(Enum):
    """Where a base model comes from."""

    starter = "starter"
    huggingface = "huggingface"
    modelscope = "modelscope"
    local = "local"


class Precision(Enum):
    """Number format of the forward pass in training; ``auto`` asks the machine."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Tracker(Enum):
    """Where runs are recorded."""

    mlflow = "mlflow"
    none = "none"


class BadRows(Enum):
    """What happens to rows that cannot be used: end the run, or leave them out and count them."""

    stop = "stop"
    drop = "drop"


@dataclass(frozen=True)
class Paths:
    """Folders: the domains' data, the stage cache shared by all runs, and the runs."""

    data: Optional[Path]  # noqa: UP045
    cache: Path
    runs: Path


@dataclass(frozen=True)
class Domain:
    """Training pairs and evaluation folders of one domain."""

    name: str
    source: Source
    train: Optional[str]  # noqa: UP045
    dev: Optional[Path]  # noqa: UP045
    test: Optional[Path]  # noqa: UP045
    columns: Dict[str, str]  # noqa: UP006
    sources: Optional[List[str]]  # noqa: UP006, UP045
    full: bool


@dataclass(frozen=True)
class Check:
    """How strict the data checks are."""

    bad_rows: BadRows


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
class Mine:
    """Hard negatives: how many a pair, out of how many neighbours, how far below the positive."""

    rounds: int
    negatives: int
    candidates: int
    relative_margin: float


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


@dataclass(frozen=True)
class Hardware:
    """What the machine is asked to do."""

    name: str
    device: str
    precision: Precision
    threads: int


@dataclass(frozen=True)
class Export:
    """Which artifacts are made, and on how many texts each is compared with torch."""

    precisions: List[str]  # noqa: UP006
    parity_texts: int


@dataclass(frozen=True)
class Evaluate:
    """Statistics and gates; differences are fractions (a point is 0.01)."""

    samples: int
    alpha: float
    min_gain: float
    enough_queries: int
    max_int8_drop: float
    speed_texts: int


@dataclass(frozen=True)
class Tracking:
    """Where the run is recorded."""

    kind: Tracker
    uri: str
    experiment: str


@dataclass(frozen=True)
class Config:
    """One run."""

    recipe: str
    seed: int
    limit: Optional[int]  # noqa: UP045
    until: Optional[str]  # noqa: UP045
    run_dir: Optional[Path]  # noqa: UP045
    paths: Paths
    domain: Domain
    check: Check
    model: Model
    loss: Dict[str, Any]  # noqa: UP006
    mine: Mine
    train: Train
    hardware: Hardware
    export: Export
    evaluate: Evaluate
    tracking: Tracking


class FinetuneSearchPath(SearchPathPlugin):
    """Lets Hydra find ``recipes/`` beside ``configs/`` from any working directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder that holds ``recipes/``."""
        search_path.append("finetune", ROOT.as_uri())


Plugins.instance().register(FinetuneSearchPath)


def choices(group: str) -> list[str]:
    """Names that ``<group>=`` accepts, sorted."""
    folder = ROOT / group if group == "recipes" else ROOT / "configs" / group
    return sorted(path.stem for path in folder.glob("*.yaml"))


def nearest(name: str, known: Sequence[str]) -> str:
    """Say which valid name is meant, or list them all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from: " + ", ".join(known)


def compose(overrides: Sequence[str]) -> Config:
    """Compose and check one run from ``key=value`` overrides.

    Raises:
        UserError: With every problem found.
    """
    parsed = parse(overrides)
    overrides = [override.input_line or "" for override in parsed]
    problems = [problem for override in parsed for problem in _override_problems(override)]
    recipe = next((o.value() for o in parsed if o.key_or_group == "recipes"), None)
    if recipe is None:
        problems.append("recipes: none named; " + nearest("", choices("recipes")))
    if problems:
        raise UserError(*problems)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        try:
            raw = hydra_compose("default", overrides)
        except (HydraException, OmegaConfBaseException) as error:
            parts = hydra_compose(
                "default",
                [o.input_line or "" for o in parsed if o.key_or_group in GROUPS and not o.package],
            )
            unknown = [problem for o in parsed for problem in _unknown_in_part(o, parts)]
            raise UserError(*(unknown or [f"configuration: {_first_line(error)}"])) from error
    raw.recipe = recipe
    return typed(raw)


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides; values that only need quotes to be understood get them.

    Raises:
        UserError: When one is not of the form key=value.
    """
    try:
        return OverridesParser.create().parse_overrides(list(map(_quoted, overrides)))
    except HydraException as error:
        what = getattr(error, "override", "") or _first_line(error)
        raise UserError(
            f"command line: {what!r} cannot be read; write key=value, and quote values that hold "
            "spaces, commas or brackets: 'key=\"a, b\"'"
        ) from error


def _quoted(override: str) -> str:
    key, _, value = override.partition("=")
    if not _ODD.search(value):
        return override
    if not re.search(r"[,'\"\[\]{}()]", value):
        return f"{key}='{value}'"
    plain = _WORD.sub(lambda found: _quoted_word(found[0]), value)
    return f"{key}={plain}"


def _quoted_word(word: str) -> str:
    return f"'{word}'" if word[0] not in "'\"" and _ODD.search(word) else word


def typed(raw: DictConfig) -> Config:
    """Turn a composed configuration into a checked `Config`.

    Raises:
        UserError: With every wrong key, type and value.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        part = raw.get(field.name)
        nested = isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
        schema = field.type if nested else Config
        content = part if nested and isinstance(part, DictConfig) else {field.name: part}
        typed_part, found = _typed_part(schema, content, f"{field.name}." if nested else "")
        problems += found
        values[field.name] = typed_part if nested else typed_part.get(field.name)
    problems += [
        f"{key}: unknown key; {nearest(key, list(known_keys()))}"
        for key in map(str, raw) if key not in values
    ]  # fmt: skip
    if problems:
        raise UserError(*problems)
    config = Config(**values)
    problems = list(_problems(config))
    if problems:
        raise UserError(*problems)
    return config


def _typed_part(schema: Any, content: Mapping[str, Any], prefix: str) -> tuple[Any, list[str]]:
    """Merge a part leaf by leaf into its schema, so that every wrong leaf is told."""
    problems = []
    good: dict[str, Any] = {}
    for key in map(str, content):
        try:
            value = content[key]
            value = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
            OmegaConf.merge(OmegaConf.structured(schema), {key: value})
            good[key] = value
        except (OmegaConfBaseException, ValueError) as error:
            problems.append(f"{prefix}{key}: {_first_line(error)}")
    if problems:
        return {}, problems
    merged = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), good))
    missing = [f.name for f in dataclasses.fields(schema) if OmegaConf.is_missing(merged, f.name)]
    if not prefix:
        found = {key: merged[key] for key in good}
        return {k: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v
                for k, v in found.items()}, []  # fmt: skip
    if missing:
        return {}, [f"{prefix}{name}: not set" for name in missing]
    return OmegaConf.to_object(merged), []


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


@cache
def known_keys() -> dict[str, bool]:
    """All dotted keys; True for those under which any further key may stand."""
    return dict(_schema_keys(Config))


def _schema_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    for field in dataclasses.fields(schema):
        kind = field.type
        key = prefix + field.name
        yield key, str(kind).startswith("typing.Dict")
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _schema_keys(kind, key + ".")


def _override_problems(override: Override) -> Iterator[str]:
    key = override.key_or_group
    if override.is_sweep_override():
        yield f"{override.input_line}: several values; add -m to run one after the other"
        return
    if key in GROUPS:
        options = choices(key)
        if override.value() not in options:
            name = str(override.value())
            kind = key.removesuffix("s") if key == "recipes" else key
            yield f"{key}={name}: unknown {kind}; {nearest(name, options)}"
        return
    keys = known_keys()
    parents = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    if key in keys or key.startswith("hydra") or any(keys.get(parent) for parent in parents):
        return
    part = key.split(".")[0]
    near = [known for known in keys if known.startswith(f"{part}.")] or [*keys, *GROUPS]
    yield f"{override.input_line}: unknown key {key!r}; {nearest(key, near)}"


def _unknown_in_part(override: Override, parts: DictConfig) -> Iterator[str]:
    """A misspelt key of a part whose keys the schema leaves open, as the loss."""
    key = override.key_or_group
    parent = key.rpartition(".")[0]
    there = [f"{parent}.{name}" for name in OmegaConf.select(parts, parent) or ()] if parent else []
    if known_keys().get(parent) and not override.is_add() and key not in there:
        yield f"{override.input_line}: unknown key {key!r}; {nearest(key, there)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _problems(config: Config) -> Iterator[str]:
    """Settings that have the right type and still cannot work."""
    for key, (low, high) in _RANGES.items():
        value = attrgetter(key)(config)
        if value is not None and not value > low:
            bound = "0 or more" if low < 0 else f"greater than {low:g}"
            yield f"{key}={value}: must be {bound}"
        elif value is not None and not value <= high:
            yield f"{key}={value}: must be at most {high:g}"
    for key, options in _CHOICES.items():
        value = attrgetter(key)(config)
        wrong = [each for each in (value if isinstance(value, list) else [value])
                 if each not in options]  # fmt: skip
        if wrong or not value:
            yield f"{key}={value}: choose from: {', '.join(options)}"
    if set(config.model.prompts) != {"query", "passage"}:
        yield f"model.prompts: has {sorted(config.model.prompts)}; expected query and passage"
    if config.mine.rounds and config.mine.negatives > config.mine.candidates:
        yield (
            f"mine.negatives={config.mine.negatives}: only mine.candidates="
            f"{config.mine.candidates} neighbours are looked at; raise mine.candidates"
        )


def target_problems(name: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Bind a ``_target_`` node's keys to the target's signature.

    Not part of `compose`: it imports the target, and with it torch.
    """
    target = str(node.get("_target_", ""))
    if not target:
        yield f"{name}: no _target_ (the class that makes it)"
        return
    try:
        signature = inspect.signature(get_class(target))
    except (ImportError, ValueError) as error:
        yield f"{name}._target_={target}: {_first_line(error)}"
        return
    known = [key for key in signature.parameters if key != "model"]
    for key in node:
        if not key.startswith("_") and key not in known:
            yield f"{name}.{key}: {target} has no parameter {key!r}; {nearest(key, known)}"
