"""Which settings a search tries: ranges of the command line and of ``configs/tune``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.types import IntervalSweep, Override

from finetune.config import Config, to_dict
from finetune.config.compose import GROUPS, ROOT, choices, compose, parse
from finetune.errors import UserError, nearest

Value = float | int | str

_OWN_KEYS = ("tune", "tune.trials")
_REFUSED = ("until", "run_dir")


@dataclass(frozen=True)
class Range:
    """What a key may be: one of its choices, or a number between low and high."""

    expression: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last value, as overrides have them."""
        if self.choices:
            return self.choices[0], self.choices[-1]
        return self.text(self.low), self.text(self.high)

    def text(self, value: Value) -> str:
        """A value as an override has it: three digits of a real number, since more are noise."""
        if isinstance(value, str):
            return value
        return str(int(value)) if self.whole else f"{value:.3g}"

    def holds(self, value: Any) -> bool:
        """True for a value that a trial may have."""
        if self.choices:
            return str(value) in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Search:
    """What is searched, and how long.

    Attributes:
        fixed: Overrides of every trial.
        space: Range of each searched key (with the ``+`` that the command line gave it).
        trials: How many are made in all.
        as_is: The run without the search.
    """

    fixed: Sequence[str]
    space: Mapping[str, Range]
    trials: int
    as_is: Config


def read_search(overrides: Sequence[str]) -> Search:
    """Put the command line and ``configs/tune`` together, and check both ends of every range.

    Raises:
        UserError: With every problem found.
    """
    parsed = parse(overrides)
    _check_keys(parsed)
    own = {each.key_or_group: each.value() for each in parsed if each.key_or_group in _OWN_KEYS}
    content = _read_file(str(own.get("tune", "default")))
    trials = own.get("tune.trials", content["trials"])
    if type(trials) is not int or trials < 1:
        raise UserError(f"tune.trials={trials}: expected a whole number greater than 0")
    rest = [each for each in parsed if each.key_or_group not in _OWN_KEYS]
    fixed = [each.input_line or "" for each in rest if not each.is_sweep_override()]
    varied = {_key(each): each for each in rest if each.is_sweep_override()}
    groups = [f"{key}={_range(each, '').ends[0]}" for key, each in varied.items() if key in GROUPS]
    as_is = compose([*fixed, *groups])
    named = {each.key_or_group for each in rest}
    for key, expression in content["space"].items():
        current = value_of(as_is, key)
        if key not in named and current is not None:
            varied[key] = _searched(key, expression, current)
    space = {key: _range(each, value_of(as_is, key)) for key, each in varied.items()}
    if not space:
        raise UserError("finetune tune: nothing to search; give a key a range: "
                        "'train.learning_rate=interval(1e-5,1e-4)'")  # fmt: skip
    for end in (0, 1):
        compose([*fixed, *(f"{key}={each.ends[end]}" for key, each in space.items())])
    return Search(fixed, space, trials, as_is)


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    found = to_dict(config)
    for part in key.lstrip("+").split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _check_keys(overrides: Sequence[Override]) -> None:
    problems = []
    for override in overrides:
        key = override.key_or_group
        if key in _REFUSED:
            problems.append(f"{override.input_line}: finetune tune sets {key} itself; leave it out")
        if key.split(".")[0] == "tune" and key not in _OWN_KEYS:
            problems.append(f"{override.input_line}: unknown key; {nearest(key, _OWN_KEYS)}")
    if problems:
        raise UserError(*problems)


def _read_file(name: str) -> dict[str, Any]:
    if name not in choices("tune"):
        raise UserError(f"tune={name}: unknown; {nearest(name, choices('tune'))}")
    text = (ROOT / "configs/tune" / f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _key(override: Override) -> str:
    return (override.input_line or "").partition("=")[0]


def _searched(key: str, expression: str, current: Any) -> Override:
    """A key and its range of a file, or where that does not hold the run's value, one around it."""
    override = parse([f"{key}={expression}"])[0]
    if _range(override, current).holds(current):
        return override
    low = max(1, current // 10) if type(current) is int else current / 10
    return parse([f"{key}=tag(log, interval({low:g}, {10 * current:g}))"])[0]


def _range(override: Override, current: Any) -> Range:
    sweep = override.value()
    expression = (override.input_line or "").partition("=")[2]
    if not isinstance(sweep, IntervalSweep):
        return Range(expression, choices=tuple(override.sweep_string_iterator()))
    low, high = sweep.start or 0, sweep.end or 0
    whole = type(current) is int or (type(low) is int and type(high) is int)
    if not low < high:
        raise UserError(f"{override.input_line}: expected the lower end first")
    if "log" in sweep.tags and not low > 0:
        raise UserError(f"{override.input_line}: tag(log, …) needs a lower end greater than 0")
    return Range(expression, low=low, high=high, log="log" in sweep.tags, whole=whole)
