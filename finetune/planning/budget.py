"""What a plan will take, as a table, and what of it this machine does not have."""

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config import Config, Hardware
from finetune.machine import hardware
from finetune.stage import Done, Planned

if TYPE_CHECKING:  # costs half a second, which a plan without work does not need
    from finetune.planning.costs import Cost

log = logging.getLogger(__name__)

_GIB = 1024**3


@dataclass(frozen=True)
class Outlook:
    """A plan's table, and a sentence for each thing that it needs and the machine lacks."""

    table: tuple[str, ...]
    shortages: tuple[str, ...]


def show(planned: Sequence[Planned], config: Config) -> None:
    """Say what a run will do and take, and warn of what does not fit.

    Args:
        planned: Its steps, of which some may be cached; those after ``until`` are left out.
        config: Resolved (`finetune.pipeline.resolve`).
    """
    names = [each.step.name for each in planned]
    wanted = planned[: names.index(config.until) + 1] if config.until else planned
    shown = outlook(wanted, config.paths.cache, config.hardware)
    for line in shown.table:
        log.info(line)
    for shortage in shown.shortages:
        log.warning(shortage)


def outlook(planned: Sequence[Planned], cache: Path, machine: Hardware) -> Outlook:
    """Forecast what is to be done, and hold it against what this machine has.

    Args:
        planned: The steps, of which some may be cached.
        cache: Where they keep their outputs.
        machine: As `finetune.machine.hardware.resolve` found it.
    """
    if all(each.cached for each in planned):
        return Outlook(tuple(table(planned, {})), ())
    from finetune.planning import forecast

    costs = forecast.costs(planned, cache, hardware.label(machine))
    gpus = hardware.gpus() if machine.device == "cuda" else ()
    folder = next(p for p in (cache.absolute(), *cache.absolute().parents) if p.exists())
    lacking = shortages(
        costs,
        hardware.available_memory(),
        gpus[0].free if gpus else None,
        shutil.disk_usage(folder).free,
    )
    return Outlook(tuple(table(planned, costs)), tuple(lacking))


def remember(
    planned: Sequence[Planned], done: Mapping[str, Done], resumed: Collection[str], config: Config
) -> None:
    """Write down what steps took, for the forecasts of later runs on this machine.

    Args:
        planned: The steps of the run.
        done: Those that are done, by name.
        resumed: Names of those that another attempt had begun, and whose time is not the whole.
        config: Resolved.
    """
    took = {name: each.seconds for name, each in done.items()
            if not each.cached and name not in resumed}  # fmt: skip
    if took:
        from finetune.planning import forecast

        forecast.remember(planned, took, config.paths.cache, hardware.label(config.hardware))


def table(planned: Sequence[Planned], costs: Mapping[str, "Cost"]) -> Iterator[str]:
    """Yield a line a step: its name, key, whether it is cached, and about what it will take."""
    for each in planned:
        state = "cached" if each.cached else f"to do: {_words(costs[each.step.name])}"
        yield f"  {each.step.name:<21} {each.key[:8]}  {state}"
    if costs:
        yield _total(costs)


def shortages(
    costs: Mapping[str, "Cost"], memory: int | None, gpu: int | None, disk: int
) -> Iterator[str]:
    """Say what will not fit.

    Args:
        costs: Of the steps to do.
        memory: Bytes that this process may take; None where the system does not tell.
        gpu: Bytes free on the GPU; None where there is none, or it does not tell.
        disk: Bytes free where the cache lies.
    """
    for name, cost in costs.items():
        limit, where = (gpu, "free on the GPU") if cost.gpu else (memory, "available")
        if limit is not None and cost.memory is not None and cost.memory > limit:
            fix = f"lower {cost.lower}" if cost.lower else "close other programs"
            yield (f"{name} needs about {size(cost.memory)} of memory; {size(limit)} {where}: "
                   f"{fix}")  # fmt: skip
    needed = sum(cost.disk or 0 for cost in costs.values())
    if needed > disk:
        yield (f"this run writes about {size(needed)}; {size(disk)} of disk free: free some, or "
               "set paths.cache=<folder on another disk>")  # fmt: skip


def duration(seconds: float) -> str:
    """How long, in words that promise no more than an estimate can: ``40 s``, ``3.5 min``."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def size(number: int) -> str:
    """Bytes to read: ``350 MiB``, ``2.4 GiB``."""
    return f"{number / 1024**2:.0f} MiB" if number < _GIB else f"{number / _GIB:.1f} GiB"


def _words(cost: "Cost") -> str:
    """Time and memory of a step, of light ones the time alone; and what it asks of others."""
    if cost.seconds is None and cost.memory is None and not cost.asks:
        return "time and memory not known yet"
    time = "time not known yet" if cost.seconds is None else f"about {duration(cost.seconds)}"
    memory = f"{size(cost.memory)}{' of the GPU' if cost.gpu else ''}" if cost.memory else ""
    return ", ".join(filter(None, (time, memory, cost.asks)))


def _total(costs: Mapping[str, "Cost"]) -> str:
    """The sum of the times and of what is written, and the largest memory."""
    seconds = sum(cost.seconds or 0 for cost in costs.values())
    disk = sum(cost.disk or 0 for cost in costs.values())
    parts = [f"about {duration(seconds)}"]
    for gpu, where in ((False, ""), (True, " of the GPU")):
        memory = max((c.memory or 0 for c in costs.values() if c.gpu is gpu), default=0)
        parts += [f"at most {size(memory)}{where}"] if memory else []
    line = f"  in all {', '.join([*parts, f'{size(disk)} of disk'])}"
    unknown = [name for name, cost in costs.items() if cost.seconds is None]
    if unknown:
        line += f"; and more for {', '.join(unknown)}"
    return line
