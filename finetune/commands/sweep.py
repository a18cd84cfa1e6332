"""Run the jobs of a sweep through one of Hydra's launchers, with one MLflow run above theirs.

Of Hydra's sweeps only the launchers are used: they start jobs here one after the other (the
default), at once in processes (``hydra/launcher=joblib``) or on a cluster
(``hydra/launcher=submitit_slurm``). Each job composes its configuration as any run does, from the
overrides that were checked before the first one started.
"""

import hashlib
import itertools
import json
import logging
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune import tracking
from finetune.commands import swept
from finetune.config import Config, Tracking
from finetune.config.compose import ROOT, compose, parse
from finetune.errors import UserError, first_line, nearest
from finetune.machine import processes

log = logging.getLogger(__name__)

# From a job's overrides to its exit code and, where it came to a report, its run directory.
Job = Callable[[Sequence[str]], tuple[int, Path | None]]

_CRASHED = 1
_WORST_FIRST = (_CRASHED, 2, 3, 0)
_GROUP = "hydra/launcher"
_PLUGINS = ("joblib", "submitit_local", "submitit_slurm")  # of the extra `sweep`


def run(overrides: Sequence[str], job: Job) -> int:
    """Check all jobs of a sweep, then run them; return the worst of their exit codes.

    Args:
        overrides: ``key=value``, sweeps (``seed=1,2``) and keys of Hydra's launcher among them.
        job: Runs one; an importable function, since another process may call it.

    Raises:
        UserError: With every problem of every job.
    """
    hydra = [each for each in overrides if _is_hydras(each)]
    jobs = list(expand([each for each in overrides if not _is_hydras(each)]))
    configs = _checked(jobs)
    folder = _folder(jobs, configs[0])
    launcher = _launcher(hydra, folder, job)
    folder.mkdir(parents=True, exist_ok=True)
    with _below_groups(jobs, configs, folder) as below:
        done = launcher.launch([line for _, line in below], initial_job_idx=0)
        codes, run_dirs = zip(*map(_ended, done), strict=True)
        _record(jobs, [group for group, _ in below], run_dirs, folder)
    for number, (line, code) in enumerate(zip(_what_differs(jobs), codes, strict=True), 1):
        log.info("job %d of %d (%s) ended with %d", number, len(jobs), shlex.join(line), code)
    return min(codes, key=_WORST_FIRST.index)


def expand(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of each job of a sweep: ``a=1,2 b=3`` gives two."""
    options = []
    for override in parse(overrides):
        line = override.input_line or ""
        key = line.partition("=")[0]
        sweep = override.is_sweep_override()
        values = override.sweep_string_iterator() if sweep else ()
        options.append([f"{key}={value}" for value in values] if sweep else [line])
    yield from (list(job) for job in itertools.product(*options))


def _is_hydras(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _checked(jobs: Sequence[Sequence[str]]) -> list[Config]:
    problems: list[str] = []
    configs = []
    for job in jobs:
        try:
            configs.append(compose(job))
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    named = Counter(config.run_dir for config in configs if config.run_dir)
    problems += [
        f"run_dir={folder}: {count} jobs of this sweep would overwrite each other there; leave "
        "run_dir out (each job gets its own below paths.runs), or name what differs: "
        "'run_dir=runs/${recipe}-${seed}'"
        for folder, count in named.items() if count > 1
    ]  # fmt: skip
    if problems:
        raise UserError(*problems)
    return configs


def _folder(jobs: Sequence[Sequence[str]], config: Config) -> Path:
    """Where the launcher keeps its files; the same sweep has the same."""
    digest = hashlib.sha256(json.dumps(jobs, ensure_ascii=False).encode()).hexdigest()
    return config.paths.cache.absolute() / "sweeps" / f"sweep-{digest[:8]}"


@contextmanager
def _below_groups(
    jobs: Sequence[Sequence[str]], configs: Sequence[Config], folder: Path
) -> Iterator[list[tuple[tracking.Group, list[str]]]]:
    """Tell each job which MLflow run stands above it, one for each experiment; yield both."""
    with ExitStack() as stack:
        groups: dict[Tracking, tracking.Group] = {}
        started = []
        values = _values(jobs)
        named = " ".join(f"{key}={each}" for key, each in _values(_what_differs(jobs)).items())
        for job, config, differs in zip(jobs, configs, _what_differs(jobs), strict=True):
            where = replace(config.tracking, name=config.tracking.name or f"sweep {named}")
            if where not in groups:
                groups[where] = stack.enter_context(tracking.group(where, folder, values))
            group = groups[where]
            name = config.tracking.name or " ".join([config.recipe, *differs])
            above = [f"tracking.parent='{group.run_id}'"] if group.run_id else []
            started.append((group, [*job, f"tracking.name={_quoted(name)}", *above]))
        yield started


def _record(
    jobs: Sequence[Sequence[str]], groups: Sequence[tracking.Group],
    run_dirs: Sequence[Path | None], folder: Path,
) -> None:  # fmt: skip
    """Tell the run above each job what came of the jobs below it, by setting."""
    settings = [" ".join(each for each in line if not each.startswith("seed="))
                for line in _what_differs(jobs)]  # fmt: skip
    for group in {id(each): each for each in groups}.values():
        runs: dict[str, list[Path]] = {}
        for each, run_dir, setting in zip(groups, run_dirs, settings, strict=True):
            if each is group and run_dir is not None:
                runs.setdefault(setting or "seeds alone", []).append(run_dir)
        swept.record(group, runs, folder)


def _quoted(text: str) -> str:
    """Write a name as Hydra reads it back, but for its backslashes and single quotes."""
    return "'" + text.replace("\\", "/").replace("'", '"') + "'"


def _values(jobs: Sequence[Sequence[str]]) -> dict[str, str]:
    """All values of each key: ``{"seed": "1, 2", "recipes": "full"}``."""
    found: dict[str, dict[str, None]] = {}
    for job in jobs:
        for override in job:
            key, _, value = override.partition("=")
            found.setdefault(key.lstrip("+~"), {})[value] = None
    return {key: ", ".join(values) for key, values in found.items()}


def _what_differs(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of each job that others do not have."""
    return [[each for each in job if not all(each in other for other in jobs)] for job in jobs]


def _launcher(overrides: Sequence[str], folder: Path, job: Job) -> Launcher:
    ours = [f"hydra.sweep.dir='{folder}'", "hydra.output_subdir=null",
            "hydra/job_logging=none", "hydra/hydra_logging=none"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        _check_launcher(overrides, loader.get_group_options(_GROUP))
        try:
            config = hydra_compose("default", [*ours, *overrides], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"{' '.join(overrides)}: {first_line(error)}") from error
        return Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(loader, Callbacks()),
            task_function=partial(_start, job),
            config=config,
        )


def _check_launcher(overrides: Sequence[str], there: Sequence[str]) -> None:
    problems = []
    for override in parse(overrides):
        key, name = override.key_or_group, override.value()
        if key.startswith(("hydra/sweeper", "hydra.sweeper")):
            problems.append(f"{override.input_line}: only Hydra's launchers are used; to search "
                            "for the best values: finetune tune")  # fmt: skip
        elif key == _GROUP and name != "basic" and processes.count() > 1:
            problems.append(f"{key}={name}: its jobs cannot share the processes that this command "
                            "was started in; leave out the one or the other")  # fmt: skip
        elif key == _GROUP and name not in there and name in _PLUGINS:
            problems.append(f"{key}={name}: not installed: pip install 'finetune[sweep]'")
        elif key == _GROUP and name not in there:
            problems.append(
                f"{key}={name}: unknown launcher; {nearest(str(name), ['basic', *_PLUGINS])}"
            )
        elif key == _GROUP and name == "submitit_slurm" and not shutil.which("sbatch"):
            problems.append(f"{key}={name}: no sbatch on this machine; expected a login node of "
                            f"a SLURM cluster: {_GROUP}=submitit_local or joblib")  # fmt: skip
    if problems:
        raise UserError(*problems)


def _start(job: Job, config: DictConfig) -> tuple[int, Path | None]:
    """What Hydra calls for each job; ``config`` is its own composition and not ours."""
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return job(cast(list[str], overrides))


def _ended(done: JobReturn) -> tuple[int, Path | None]:
    if done.status is JobStatus.COMPLETED:
        return cast(tuple[int, Path | None], done.return_value)
    # `return_value` would raise it, and the codes of the jobs behind this one be lost.
    log.error("job failed: %s", shlex.join(done.overrides or ()), exc_info=done._return_value)
    return _CRASHED, None
