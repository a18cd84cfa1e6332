"""From command-line overrides to a checked `Config`.

`compose` returns one, or raises one `UserError` that holds every problem found: unknown groups,
keys and values with the nearest valid name, wrong types, and settings that cannot work together.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import Config, check, hints
from finetune.config.choices import Kind
from finetune.config.pairs import Mixed
from finetune.errors import UserError, first_line, nearest

_PACKAGE = Path(__file__).parents[1]
# A clone keeps configs/ beside the package; an installed wheel carries them inside it.
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "configs/default.yaml").is_file() else _PACKAGE
GROUPS = ("recipes", "domain", "check", "opencc", "encode", "generate", "writer", "pseudo", "mix",
          "model", "adapter", "loss", "noise", "mine", "augment", "distill", "train", "merge",
          "hardware", "export", "quantize", "evaluate", "tracking")  # fmt: skip

# What Hydra's grammar takes for no part of a plain value: Chinese, and signs that paths hold.
_ODD = re.compile(r"[^\x00-\x7f]|[~#&!;=]")
_OPEN = re.compile(r"((domain|mix\.[^.]+)\.columns|writer\.options)(\.|$)")
_WORD = re.compile(r"'[^']*'|\"[^\"]*\"|[^\s,:'\"\[\]{}()]+")


class FinetuneSearchPath(SearchPathPlugin):
    """Lets Hydra find ``recipes/`` beside ``configs/`` from any working directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder that holds ``recipes/``."""
        search_path.append("finetune", ROOT.as_uri())


def choices(group: str) -> list[str]:
    """Names that ``<group>=`` accepts, sorted."""
    folder = ROOT / group if group == "recipes" else ROOT / "configs" / group
    return sorted(path.stem for path in folder.glob("*.yaml"))


def compose(overrides: Sequence[str]) -> Config:
    """Compose and check one run from ``key=value`` overrides.

    Raises:
        UserError: With every problem found.
    """
    parsed = parse(overrides)
    overrides = [_opened(override) for override in parsed]
    problems = [problem for override in parsed for problem in _override_problems(override)]
    recipe = next((o.value() for o in parsed if o.key_or_group == "recipes"), None)
    if recipe is None and all(o.key_or_group != "recipe" for o in parsed):
        problems.append(f"recipes: none named; {nearest('', choices('recipes'))}; begin with "
                        "recipes=contrastive")  # fmt: skip
    if problems:
        raise UserError(*problems)
    # Here and not once for all: Hydra's launchers make its plugins anew in their processes.
    Plugins.instance().register(FinetuneSearchPath)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        try:
            raw = hydra_compose("default", overrides)
        except (HydraException, OmegaConfBaseException) as error:
            parts = hydra_compose(
                "default",
                [o.input_line or "" for o in parsed if o.key_or_group in GROUPS and not o.package],
            )
            unknown = [problem for o in parsed for problem in _unknown_in_part(o, parts)]
            raise UserError(*(unknown or [f"configuration: {first_line(error)}"])) from error
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
        what = getattr(error, "override", "") or first_line(error)
        raise UserError(
            f"command line: {what!r} cannot be read; {hints.no_override(what)}"
        ) from error


def _opened(override: Override) -> str:
    """Let ``columns`` name any field; reading the data tells one that no row has.

    Which options an endpoint takes is its own to say.
    """
    line = override.input_line or ""
    inside = _OPEN.match(override.key_or_group)
    return f"++{line}" if inside and override.type is OverrideType.CHANGE else line


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
    single: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        part = raw.get(field.name)
        if field.name == "mix" and isinstance(part, DictConfig):
            values["mix"] = {}
            for name in map(str, part):
                values["mix"][name], found = _typed_part(Mixed, part[name], f"mix.{name}.")
                problems += found
            continue
        if not (isinstance(field.type, type) and dataclasses.is_dataclass(field.type)):
            single[field.name] = part
            continue
        content = part if isinstance(part, DictConfig) else {field.name: part}
        values[field.name], found = _typed_part(field.type, content, f"{field.name}.")
        problems += found
    alone, found = _typed_part(Config, single, "")
    problems += found
    values |= {name: alone.get(name) for name in single}
    problems += [
        f"{key}: unknown key; {nearest(key, list(known_keys()))}"
        for key in map(str, raw) if key not in values
    ]  # fmt: skip
    values = {name: _at_home(value, name, problems) for name, value in values.items()}
    if problems:
        raise UserError(*problems)
    config = Config(**values)
    problems = [*check.problems(config), *_kind_problems(config)]
    if problems:
        raise UserError(*problems)
    return config


def _at_home(value: Any, key: str, problems: list[str]) -> Any:
    """Put the user's home in the place of a leading ``~`` of a path, and of the paths in a part."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{
            name: _at_home(getattr(value, name), f"{key}.{name}", problems) for name in names
        })  # fmt: skip
    try:
        return value.expanduser() if isinstance(value, Path) else value
    except RuntimeError:
        problems.append(f"{key}={value}: no such home; write the folder out")
    return value


_ROWS = {Kind.pairs: "pairs of a query and its answer", Kind.scored: "scored pairs"}


def _kind_problems(config: Config) -> Iterator[str]:
    """Say that the loss cannot learn from the rows that the domain holds, and what could."""
    domain, wanted = config.domain, check.kind_of(config.loss)
    if domain.kind is wanted:
        return
    domains = [name for name in choices("domain") if _load("domain", name).kind == wanted.value]
    losses = [name for name in choices("loss") if check.kind_of(_load("loss", name)) is domain.kind]
    loss = str(config.loss["_target_"]).rpartition(".")[2]
    yield (
        f"recipes={config.recipe}: its loss {loss} learns from {_ROWS[wanted]}, and domain="
        f"{domain.name} holds {_ROWS[domain.kind]}; choose a domain that holds {_ROWS[wanted]}: "
        f"{', '.join(domains)} (your own: domain.kind={wanted.value}), or loss={', '.join(losses)}"
    )


def kind_asked(overrides: Sequence[str]) -> Kind:
    """Which rows the domain of a command line holds, before a recipe is chosen for them."""
    asked = dict(each.split("=", 1) for each in overrides if "=" in each)
    named = asked.get("domain", "custom")
    held = _load("domain", named).kind if named in choices("domain") else Kind.pairs.value
    return Kind.scored if asked.get("domain.kind", held) == Kind.scored.value else Kind.pairs


def _load(group: str, name: str) -> DictConfig:
    return cast(DictConfig, OmegaConf.load(ROOT / "configs" / group / f"{name}.yaml"))


def _typed_part(schema: Any, content: Mapping[str, Any], prefix: str) -> tuple[Any, list[str]]:
    """Merge a part into its schema; where that fails, leaf by leaf: each mistake is told."""
    try:
        good = {key: _plain(content[key]) for key in map(str, content)}
        merged = cast(DictConfig, OmegaConf.merge(_empty(schema), good))
    except (OmegaConfBaseException, ValueError):
        return {}, [f"{prefix}{told}" for told in _wrong_leaves(schema, content)]
    missing = [f.name for f in dataclasses.fields(schema) if OmegaConf.is_missing(merged, f.name)]
    if not prefix:
        found = {key: merged[key] for key in good}
        return {k: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v
                for k, v in found.items()}, []  # fmt: skip
    if missing:
        return {}, [f"{prefix}{name}: not set" for name in missing]
    return OmegaConf.to_object(merged), []


@cache
def _empty(schema: Any) -> DictConfig:
    """A part before anything is merged into it: made once, as it takes longer than merging."""
    return cast(DictConfig, OmegaConf.structured(schema))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _wrong_leaves(schema: Any, content: Mapping[str, Any]) -> Iterator[str]:
    for key in map(str, content):
        try:
            OmegaConf.merge(_empty(schema), {key: _plain(content[key])})
        except (OmegaConfBaseException, ValueError) as error:
            yield hints.wrong_value(key, error)


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
        options, value = choices(key), override.value()
        several = value if key == "mix" and isinstance(value, list) else [value]
        for name in (str(each) for each in several if each not in options):
            yield hints.unknown_choice(key, name, options)
        return
    keys = [known for known in known_keys() if known != "recipe"]  # which recipes= sets
    if key not in keys and not key.startswith("hydra") and not _in_open_part(key):
        yield hints.unknown_key(override.input_line or "", key, keys, GROUPS)


def _in_open_part(key: str) -> bool:
    """True below a key whose own keys the schema leaves open."""
    parents = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    return any(known_keys().get(parent) for parent in parents)


def _unknown_in_part(override: Override, parts: DictConfig) -> Iterator[str]:
    """A misspelt key of a part whose keys the schema leaves open, as the loss."""
    key = override.key_or_group
    first, _, rest = key.partition(".")
    if first == "mix" and rest and rest.partition(".")[0] not in parts.mix:
        yield f"{override.input_line}: no such set is mixed in; add mix=<set>, from: " + ", ".join(
            name for name in choices("mix") if name != "none"
        )
        return
    parent = key.rpartition(".")[0]
    there = [f"{parent}.{name}" for name in OmegaConf.select(parts, parent) or ()] if parent else []
    if _in_open_part(key) and not override.is_add() and key not in there:
        line = override.input_line or ""
        yield f"{line}: unknown key {key!r}; {hints.meant(line, key) or nearest(key, there)}"
