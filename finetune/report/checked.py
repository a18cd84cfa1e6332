"""What ``finetune check`` found: a table for the terminal, and a page to act on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

_UNSEARCHED = "not looked for: set paths.data=<folder of data sets>"


def render(report: Mapping[str, Any]) -> str:
    """Render the page: one self-contained file; all text from data is escaped by Jinja2."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"whole": lambda value: f"{value:,}", "share": _share}
    page = environment.get_template("check.html")
    return page.render(
        report, verdict=verdict(report), facts=list(_facts(report)), unsearched=_UNSEARCHED
    )


def terminal(report: Mapping[str, Any]) -> Group:
    """Lay out the same, short, for a terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("found", overflow="fold")
    for heading in ("count", "of", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in report["findings"]:
        style = "bold yellow" if each["warning"] else ""
        table.add_row(Text(each["name"], style=style), f"{each['count']:,}",
                      f"{each['of']:,} {each['unit']}", _share(each))  # fmt: skip
    for reason, count in report["dropped"].items():
        table.add_row(Text(f"dropped: {reason}"), f"{count:,}", f"{report['read']:,} rows",
                      _share({"count": count, "of": report["read"]}))  # fmt: skip
    advice = [
        Text(f"{each['name']}: {each['fix']}") for each in report["findings"] if each["warning"]
    ]
    if not report["evaluated"]:
        advice.append(Text("Leaks were not looked for: add --dev <folder>."))
    elif not report["searched"]:
        advice.append(Text(f"Sets on disk that ask the same: {_UNSEARCHED}", style="dim"))
    found = [table] if table.row_count else []
    return Group(*found, *advice, Text(report["gain"], style="dim"),
                 Text(verdict(report), style="bold"))  # fmt: skip


def verdict(report: Mapping[str, Any]) -> str:
    """Say how many rows can be trained on, and how much there is to do."""
    warnings = sum(each["warning"] for each in report["findings"])
    todo = {0: "nothing to do", 1: "1 thing to do"}.get(warnings, f"{warnings} things to do")
    return f"{report['pairs']:,} of {report['read']:,} rows can be trained on; {todo}."


def _share(each: Mapping[str, Any]) -> str:
    share = each["count"] / max(each["of"], 1)
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rate = report["tokens_per_character"]
    yield (
        "tokens a character",
        f"{rate['value']:.2f} ({rate['known']}; published for the M3E family: about 1.2)",
    )
    for row in report["tokens"]:
        yield (
            f"tokens a character of {row['set']}, in {row['script'].capitalize()}",
            f"{row['tokens_per_character']:.2f}, {100 * row['unknown']:.3f} % of them unknown; "
            f"{100 * row['cut']:.1f} % of texts longer than the model reads",
        )
    for source, count in report["sources"].items():
        yield f"pairs of {source}", f"{count:,}"
    for change, count in report["changed"].items():
        yield change, f"{count:,} texts"
    for name, counts in report["sets"].items():
        yield f"evaluation set {name}", ", ".join(f"{v:,} {k}" for k, v in counts.items())
