"""The command line, ``finetune`` and ``train.py``: the commands and what they answer with.

Exit codes: 0 done and no gate failed; 2 the input or configuration is at fault; 3 the work is done
but a gate failed; 1 anything else.
"""

import argparse
import dataclasses
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler

from finetune import __version__
from finetune.commands import encoding
from finetune.commands.outputs import check_outputs
from finetune.commands.usage import BEGIN, EXIT_CODES, usage, usage_of_tune
from finetune.errors import UserError
from finetune.machine import processes

if TYPE_CHECKING:
    from finetune.config import Config

log = logging.getLogger("finetune")

DONE, BAD_INPUT, GATE_FAILED = 0, 2, 3
_COMMANDS = ("train", "tune", "check", "split", "evaluate", "compare", "encode", "tune-threads",
             "doctor")  # fmt: skip
_HELP = {"-h", "--help"}
_SPLIT = "the half of the queries that chooses, or the one that reports; default: all"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        return train(arguments[1:])
    if arguments[:1] == ["tune"]:
        return processes.run(lambda: guarded(lambda: _tune(arguments[1:])))
    parsed, rest = _parser().parse_known_args(arguments)
    if rest and (not hasattr(parsed, "words") or any(each.startswith("-") for each in rest)):
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.words += rest  # key=value behind an option
    return guarded(lambda: parsed.run(parsed))


def train(argv: Sequence[str]) -> int:
    """Run a recipe, or several with ``-m``; without arguments say what can be typed."""
    _log_to_screen()
    return processes.run(lambda: guarded(lambda: _train(argv)))


def guarded(work: Callable[[], int]) -> int:
    """Run a command; tell the user's mistakes without a traceback."""
    _log_to_screen()
    try:
        return work()
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: {error.filename or 'the disk'}: no space left; free some, or put the cache "
            "elsewhere with paths.cache=<folder>. The same command goes on from where it stopped",
            file=sys.stderr,
        )
        return BAD_INPUT


def _train(argv: Sequence[str]) -> int:
    from finetune.config import hints
    from finetune.config.compose import compose

    if not argv or _HELP & set(argv):
        print(usage())
        return DONE
    if processes.started_alone():
        log.warning(processes.started_alone())
    flags = [argument for argument in argv if argument.startswith("-")]
    overrides = [argument for argument in argv if not argument.startswith("-")]
    unknown = [hints.unknown_option(flag) for flag in flags if flag not in ("-m", "--multirun")]
    if unknown:
        raise UserError(*unknown)
    if not flags:
        return _run(compose(overrides))[0]
    from finetune.commands import sweep

    return sweep.run(overrides, _job)


def _job(overrides: Sequence[str]) -> tuple[int, Path | None]:
    """One job of a sweep, perhaps in a process of its own: its exit code and run directory."""
    from finetune.config.compose import compose

    run_dirs: list[Path | None] = []

    def work() -> int:
        code, run_dir = _run(compose(overrides))
        run_dirs.append(run_dir)
        return code

    return guarded(work), next(iter(run_dirs), None)


def _tune(overrides: Sequence[str]) -> int:
    if _HELP & set(overrides):
        print(usage_of_tune())
        return DONE
    if find_spec("optuna") is None:
        raise UserError("finetune tune: optuna is not installed: pip install 'finetune[tune]'")
    from finetune.commands import ranges, tune

    outcome = tune.run(ranges.read_search(overrides))
    tune.show(outcome)
    print(outcome.command)
    return DONE


def _run(config: "Config") -> tuple[int, Path | None]:
    """Run a pipeline; return the exit code and, where it came to its report, the run directory."""
    from finetune import pipeline
    from finetune.report import show, terminal

    report = pipeline.run(config)
    if report is None:
        return DONE, None
    show(terminal(report))
    failed = any(gate["status"] == "failed" for gate in report["gates"])
    run_dir = pipeline.directory(config, report["stages"][-1]["key"])
    return GATE_FAILED if failed else DONE, run_dir.absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("finetune", description=BEGIN, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"finetune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="|".join(_COMMANDS))
    commands.add_parser("train", help="run a recipe (the same as train.py)")
    commands.add_parser("tune", help="search for the best settings of a recipe")
    check = commands.add_parser("check", help="look at training data before training on it")
    check.add_argument("words", nargs="*", metavar="data|key=value",
                       help="file, folder or hub id of pairs, folder of documents, or a domain; "
                            "settings")  # fmt: skip
    check.add_argument("--dev", type=Path, help="evaluation folder: leaks are looked for")
    check.add_argument("--html", type=Path, help="file for a page that shows each finding")
    check.add_argument("--json", type=Path, help="file for the same, for programs")
    check.add_argument("--dropped", type=Path,
                       help="file for the rows left out, with reasons; near duplicates go to a "
                            "second one beside it; default: beside the page")  # fmt: skip
    check.set_defaults(run=_check)
    split = commands.add_parser("split", help="make a dev folder of pairs, or of documents")
    split.add_argument("words", nargs="*", metavar="data|key=value",
                       help="file, folder or hub id of pairs, settings; or a folder of documents, "
                            "then the table of questions that was made of it")  # fmt: skip
    split.add_argument("--out", type=Path, required=True,
                       help="new folder for train.jsonl, dev/ and dropped.jsonl")  # fmt: skip
    split.add_argument("--queries", type=int,
                       help="to hold out; default: every fifth, at most 1,000; of documents "
                            "to ask: 200")  # fmt: skip
    split.add_argument("--seed", type=int, default=0, help="of the draw")
    split.set_defaults(run=_split)
    evaluate = commands.add_parser("evaluate", help="score a model or bundle on folders")
    evaluate.add_argument("artifact", type=Path, help="model folder, or bundle folder")
    evaluate.add_argument("--data", type=Path, action="append", required=True,
                          help="retrieval, reranking or pair folder; repeatable")  # fmt: skip
    evaluate.add_argument("--split", choices=("all", "select", "report"), default="all",
                          help=_SPLIT)  # fmt: skip
    evaluate.add_argument("--precision", help="of a bundle; default: every one in it")
    evaluate.add_argument("--chunks", action="store_true",
                          help="score again with long documents in pieces")  # fmt: skip
    evaluate.add_argument("--json", type=Path, help="file for the scores, as in report.json")
    evaluate.set_defaults(run=_evaluate)
    compare = commands.add_parser("compare", help="runs and models side by side")
    compare.add_argument("paths", type=Path, nargs="+", metavar="RUN",
                         help="run directory; with --data also a bundle or model")  # fmt: skip
    compare.add_argument("--artifact", action="append", default=[],
                         help="of each run: tuned (default), onnx-fp32, …; repeatable")  # fmt: skip
    compare.add_argument("--data", type=Path, action="append", default=[],
                         help="folder on which all are scored anew; repeatable")  # fmt: skip
    compare.add_argument("--split", choices=("all", "select", "report"), default="all",
                         help=_SPLIT)  # fmt: skip
    compare.add_argument("--json", type=Path, help="file for the comparisons")
    compare.set_defaults(run=_compare)
    encoding.add(commands)
    doctor = commands.add_parser("doctor", help="what this machine can run, and what is missing")
    doctor.add_argument("overrides", nargs="*", metavar="key=value",
                        help="of the run to be, such as tracking.uri=http://host:5000")  # fmt: skip
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)
    return parser


def _check(arguments: argparse.Namespace) -> int:
    from finetune.commands import checking
    from finetune.records import write_json
    from finetune.report import checked, show

    data, overrides = checking.named("check", arguments.words)
    page = arguments.html
    dropped = arguments.dropped or checking.beside(page, data)
    check_outputs(html=page, json=arguments.json, dropped=dropped)
    config = checking.configuration(data, arguments.dev, overrides)
    report = checking.check(config, dropped)
    show(checked.terminal(report))
    if page:
        page.write_text(checked.render(report), encoding="utf-8")
    if arguments.json:
        write_json(arguments.json, report)
    return DONE if report["pairs"] else BAD_INPUT


def _split(arguments: argparse.Namespace) -> int:
    from finetune.commands import checking, splitting

    data, overrides = checking.named("split", arguments.words)
    print(splitting.split(data, arguments.out, arguments.queries, arguments.seed, overrides))
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from finetune.commands import scoring

    check_outputs(json=arguments.json)
    scores = scoring.evaluate(
        arguments.artifact, arguments.data, arguments.split, arguments.precision,
        chunked=arguments.chunks,
    )  # fmt: skip
    scoring.show(scores)
    if arguments.json:
        scoring.save(scores, arguments.json)
    return DONE


def _compare(arguments: argparse.Namespace) -> int:
    from finetune.commands import comparison
    from finetune.report.comparison import compare, save, show

    check_outputs(json=arguments.json)
    if arguments.data:
        systems = comparison.score(
            arguments.paths, arguments.artifact, arguments.data, arguments.split
        )
    else:
        systems = comparison.read(arguments.paths, arguments.artifact)
    lines = compare(systems)
    show(lines)
    if arguments.json:
        save(lines, arguments.json)
    return DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from finetune.commands.doctor import findings
    from finetune.config.compose import compose

    named = any(each.startswith("recipes=") for each in arguments.overrides)
    config = compose([*([] if named else ["recipes=full"]), *arguments.overrides])
    if arguments.json:
        found = [dataclasses.asdict(each) for each in findings(config)]
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return DONE
    for finding in findings(config):
        print(finding)
    return DONE


def _log_to_screen() -> None:
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False,
                          log_time_format="[%H:%M:%S]")  # fmt: skip
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    log.setLevel(logging.INFO if processes.first() else logging.WARNING)
    # Other libraries' reports and bars, which would bury our own lines. Read when they load.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
