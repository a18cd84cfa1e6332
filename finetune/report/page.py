"""The page ``report.html``: one self-contained file; all text from data is escaped by Jinja2."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from finetune.config.choices import Lang
from finetune.records import Score
from finetune.report.examples import Example
from finetune.report.facts import MAIN, METRIC_NAMES, Facts, counted, in_order, is_cut
from finetune.report.scores import by_length
from finetune.report.verdict import p_text
from finetune.report.words import Said, say, table, translated

_TEXT = 300  # characters of a passage that an example shows


def render(
    facts: Facts,
    report: Mapping[str, Any],
    changed: Sequence[tuple[str, Sequence[Example]]],
    plots: Mapping[str, tuple[str, Markup]],
) -> str:
    """Render the page, in the language of the facts.

    Args:
        facts: What the run found out.
        report: The content of ``report.json``.
        changed: Examples under a title: what improved, what got worse.
        plots: Caption and drawing by name.
    """
    everything = [Score(**row) for row in (*report["baselines"], *report["scores"])]
    rows = [row for row in everything if not is_cut(row.artifact)]
    gain = next((gate for gate in report["gates"] if gate["name"] == "gain"), None)
    return _environment(facts.lang).get_template("page.html").render(
        language={"en": "en", "zh": "zh-CN"}[facts.lang.value],
        about=report["about"],
        report=report,
        measured=_measured(rows, facts),
        gain_p=p_text(gain["p_value"]) if gain else None,
        metrics={row.metric for row in rows},
        tables=list(_tables(rows)),
        lengths=by_length(everything),
        slices=slice_rows(rows),
        speed=[{**row, "parity": _parity(row["artifact"], facts)} for row in report["speed"]],
        machines=_machines(report["machine"]["timed_on"], facts.lang),
        machine_price=facts.evaluate.machine_price,
        currency=facts.evaluate.currency,
        plots=plots,
        similarity=list(_similarity(report)),
        metric_names=METRIC_NAMES,
        changed=changed,
        facts=list(_fact_tables(facts)),
        merge=facts.merge,
        noise=facts.noise,
        main=" · ".join(dict.fromkeys(METRIC_NAMES[each.main] for each in facts.sets)),
        alpha=facts.evaluate.alpha,
    )  # fmt: skip


def short(text: str, length: int = _TEXT) -> str:
    """Cut a text, and show that it was."""
    return text if len(text) <= length else text[:length] + "…"


def _environment(lang: Lang) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "points": lambda score: f"{100 * score.value:.1f}" if score else "–",
        "half": lambda score: f"{50 * (score.ci_high - score.ci_low):.1f}" if score else "–",
        "signed": lambda value: "–" if value is None else f"{100 * value:+.1f}",
        "p": lambda value: "–" if value is None else p_text(value).removeprefix("= "),
        "number": lambda value: f"{value:,.1f}",
        "price": lambda value: "–" if value is None else f"{value:,.4g}",
        "megabytes": lambda value: f"{value / 1e6:,.1f}",
        "short": short,
        "told": partial(translated, lang),
        "named": lambda gate: say(lang, f"name.{gate}") if f"name.{gate}" in table() else gate,
    }
    environment.globals["say"] = partial(say, lang)
    return environment


def _tables(rows: Sequence[Score]) -> Iterator[dict[str, Any]]:
    """One table a set: a row for each artifact with all metrics."""
    known = {(row.artifact, row.set, row.metric): row for row in rows}
    for name in dict.fromkeys(row.set for row in rows if "/" not in row.set):
        metrics = list(dict.fromkeys(row.metric for row in rows if row.set == name))
        lines = []
        for artifact in dict.fromkeys(row.artifact for row in rows if row.set == name):
            cells = [known[artifact, name, metric] for metric in metrics]
            main = cells[0]
            lines.append({
                "artifact": artifact, "cells": cells, "delta": main.delta, "p_holm": main.p_holm,
            })  # fmt: skip
        yield {
            "set": name,
            "n": main.n,
            "counted": counted(main.metric),
            "metrics": [METRIC_NAMES[metric] for metric in metrics],
            "rows": lines,
        }


def slice_rows(rows: Sequence[Score]) -> list[dict[str, Any]]:
    """Base and tuned side by side on every slice that both have."""
    sliced = {(row.set, row.artifact): row for row in rows if "/" in row.set}
    found = []
    for name in dict.fromkeys(name for name, _ in sliced):
        base, tuned = sliced.get((name, "base")), sliced.get((name, "tuned"))
        if base and tuned:
            metric = METRIC_NAMES[base.metric]
            found.append({"set": name, "n": base.n, "metric": metric, "base": base, "tuned": tuned})
    return found


def _measured(rows: Sequence[Score], facts: Facts) -> dict[str, Any] | None:
    """What the verdict is about."""
    first = next((row for row in rows if row.set == facts.domain_set and row.metric in MAIN), None)
    if first is None:
        return None
    return {"metric": METRIC_NAMES[first.metric], "set": first.set, "n": f"{first.n:,}",
            "counted": Said(f"counted.{counted(first.metric)}")}  # fmt: skip


def _similarity(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Cosines of answers and of what is none, and the threshold between them, by artifact."""
    for artifact in in_order(name for name in report["similarity"] if not is_cut(name)):
        threshold = report["thresholds"].get(artifact)
        yield {"artifact": artifact, **report["similarity"][artifact], "threshold": threshold}


def _parity(artifact: str, facts: Facts) -> str:
    """Least and mean cosine of an exported model's vectors with those of torch."""
    found = facts.parity.get(artifact.removeprefix("onnx-"))
    return f"{found['min_cosine']:.5f}, {found['mean_cosine']:.5f}" if found else "–"


def _machines(timed_on: Sequence[Mapping[str, Any]], lang: Lang) -> str:
    """On which machine speeds were measured, and which, where there are several."""
    told = [say(lang, "page.timed", machine=each["machine"], threads=each["threads"])
            + (f" ({', '.join(each['artifacts'])})" if len(timed_on) > 1 else "")
            for each in timed_on]  # fmt: skip
    return "; ".join(told) or say(lang, "page.this-machine")


def _fact_tables(facts: Facts) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Tables of the nested counts that each stage handed over."""
    for title, content in (
        (Said("page.data"), facts.data_summary),
        (Said("page.mining"), facts.mining),
        (Said("page.training"), facts.training),
    ):
        if content:
            yield title, list(_flat(content))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} · ")
        else:
            yield name, _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
