"""``finetune check``: all that is looked at before training, alone and without torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune.commands import gains
from finetune.config import Config
from finetune.config.choices import Kind, Source
from finetune.config.compose import choices, compose, kind_asked
from finetune.data import contamination, drops, lengths, tokens
from finetune.data.card import read_card
from finetune.data.findings import Finding
from finetune.data.generate import by_rule
from finetune.data.load import holds_documents
from finetune.data.loaded import Loaded, Texts
from finetune.data.prepare import inspect, load, load_train, select_sources, summarise
from finetune.data.script import Scripts
from finetune.errors import UserError
from finetune.inference.script import is_traditional
from finetune.records import write_jsonl
from finetune.sources import cards, pinned, unplaced

_EXAMPLES = 8  # shown of each reason
_SAMPLE = 2_000  # texts that tell the script of all
_RECIPES = {Kind.pairs: "full", Kind.scored: "cosent"}  # that train on such rows
_EXAMPLE = {"check": "pairs.jsonl --dev <folder>", "split": "pairs.jsonl --out <folder>"}


def named(command: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the set that a command line names from the settings beside it.

    Args:
        command: ``check`` or ``split``, for the message.
        words: Of the command line, options apart.

    Raises:
        UserError: Several sets are named.
    """
    files = [word for word in words if "=" not in word or Path(word).exists()]
    if len(files) > 1:
        raise UserError(f"finetune {command}: one set at a time, not {', '.join(files)}")
    return next(iter(files), None), [word for word in words if word not in files]


def configuration(
    data: str | None, dev: Path | None, overrides: Sequence[str], command: str = "check"
) -> Config:
    """Compose what is checked, or split.

    Args:
        data: A file, folder or hub id of pairs, a folder of documents, of which pairs are made as
            ``recipes=documents`` does, or the name of a domain.
        dev: Its evaluation folder.
        overrides: ``key=value``, as for a run; rows that cannot be used are dropped and shown
            unless they say otherwise.
        command: ``check`` or ``split``, for the messages.

    Raises:
        UserError: With every problem found.
    """
    nothing = (
        f"finetune {command}: nothing to {command}; name a file of pairs, or a domain: "
        f"finetune {command} {_EXAMPLE[command]}"
    )
    if data is None and not any(each.startswith("domain") for each in overrides):
        raise UserError(nothing)
    line = ["check.bad_rows=drop"]
    if data is not None and data in choices("domain") and not Path(data).exists():
        line.append(f"domain={data}")
    elif data is not None:
        holds = "documents" if holds_documents(data) else "train"
        line += ["domain=custom", f"domain.{holds}={_quoted(data)}"]
    if dev is not None:
        line.append(f"domain.dev={_quoted(str(dev))}")
    words = [*line, *overrides]
    named = {word.partition("=")[0] for word in words}
    made = command == "check" and "domain.documents" in named and "domain.train" not in named
    config = compose([f"recipes={'documents' if made else _RECIPES[kind_asked(words)]}", *words])
    domain = config.domain
    if domain.source is Source.files and domain.train is None and not made:
        raise UserError(nothing)
    if asked := unplaced(config):
        raise UserError(*asked)
    return config


def beside(page: Path | None, data: str | None) -> Path | None:
    """The file for dropped rows beside a page: none beside a pipe, or where the data lies."""
    if page is None or not page.parent.is_dir() or (page.exists() and not page.is_file()):
        return None
    file = page.with_name(f"{page.stem}-dropped.jsonl")
    return None if data is not None and file.resolve() == Path(data).resolve() else file


def check(config: Config, dropped: Path | None = None) -> dict[str, Any]:
    """Check the data of a configuration; return what the page and the table show.

    Args:
        config: What is checked.
        dropped: File for the dropped rows, with reason, source line and what is wrong with
            them or they collided with. Beside it, under its name with ``-near`` behind, goes one
            for the near duplicates.

    Raises:
        UserError: With every problem that ends a run.
    """
    config = pinned(config)
    domain = config.domain
    evaluated = domain.source is not Source.files or domain.dev is not None
    everything = (load if evaluated else load_train)(domain, config.check)
    if domain.documents is not None and domain.train is None:
        pairs, unused = by_rule(
            config.generate, domain.documents, config.check, config.limit, config.seed
        )
        everything = replace(everything, pairs=pairs, dropped=unused)
    selected = select_sources(everything, domain.sources)
    near = dropped.with_stem(f"{dropped.stem}-near") if dropped else None
    loaded, found = inspect(selected, config.check, config.model, near)
    texts = Texts(loaded.pairs)
    tokenizer = lengths.tokenizer_of(config.model)
    otherwise = lengths.ASSUMED.get(config.model.hub, config.check.tokens_per_character)
    windows = {"train.max_length": config.train.max_length,
               "model.max_length": config.model.max_length}  # fmt: skip
    counted = lengths.count(texts, tokenizer, otherwise, windows.values())
    found += lengths.too_long(loaded, counted, windows)
    converts = Scripts.of(config.script, config.opencc, config.opencc.dictionary).converts
    sets, window = {"training": texts, **_asked(loaded)}, config.model.max_length
    by_script = tokens.report(tokenizer, sets, window, converts) if tokenizer else None
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    given = "traditional" if is_traditional(*sample) else "simplified"
    found += tokens.findings(by_script, given) if by_script else []
    found += _contamination(config, loaded)
    found += drops.look(loaded)
    found += gains.too_few(len(loaded.pairs), len(loaded.pairs) + len(loaded.dropped))
    if dropped is not None:
        write_jsonl(dropped, loaded.dropped)
    found.sort(key=lambda each: (not each.warning, -each.count / each.of))
    if tokenizer is None:
        found.append(lengths.not_at_hand(config.model, len(texts)))
    return {
        "data": domain.train or str(domain.documents or domain.name),
        "base": config.model.name,
        "evaluated": evaluated,
        "searched": config.paths.data and str(config.paths.data),
        **summarise(loaded),
        "tokens_per_character": {"value": round(counted.per_character, 3), "known": counted.known},
        "tokens": by_script["rows"] if by_script else [],
        "dropped_rows": _dropped(loaded),
        "dropped_file": dropped and dropped.name,
        "findings": [asdict(each) for each in found],
        "gain": gains.expected(len(loaded.pairs), domain.kind),
    }


def _asked(loaded: Loaded) -> dict[str, list[str]]:
    """What the evaluation asks and searches, by what it is called."""
    found: dict[str, dict[str, None]] = {"queries": {}, "passages": {}}
    for each in (*loaded.select, *loaded.report):
        for kind, text in each.prompted:
            found["queries" if kind == "query" else "passages"].setdefault(text)
    return {name: list(texts) for name, texts in found.items() if texts}


def _contamination(config: Config, loaded: Loaded) -> Iterator[Finding]:
    sets = (*loaded.select, *loaded.report)
    if not sets:
        return
    path = cards(config).get("card")
    card = read_card(path).contamination.get(config.model.name) if path else None
    yield from contamination.by_name(sets, config.model, card)
    if config.paths.data is not None:
        own = contamination.own(config.domain)
        yield from contamination.by_text(sets, config.paths.data, own, config.model)


def _dropped(loaded: Loaded) -> dict[str, list[dict[str, str]]]:
    """The first dropped rows of each reason, the most frequent reason first."""
    rows: dict[str, list[dict[str, str]]] = {}
    for each in loaded.dropped:
        shown = rows.setdefault(each.reason, [])
        if len(shown) < _EXAMPLES:
            place = f"{each.source}:{each.line}" if each.line else each.source
            shown.append({"place": place, "text": each.text,
                          "other": each.problem or each.collided_with})  # fmt: skip
    return rows


def _quoted(value: str) -> str:
    """A value that Hydra's grammar takes as it stands."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
