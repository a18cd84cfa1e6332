"""The model card, ``README.md``: metadata that the hubs ask for, then what a reader must know."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from finetune.config import Model
from finetune.config.choices import Hub
from finetune.records import Score
from finetune.report import usage
from finetune.report.facts import METRIC_NAMES, Facts, counted, is_cut
from finetune.report.scores import Lengths, by_length
from finetune.report.usage import code
from finetune.report.verdict import p_text

# Licence ids that the hubs know and the project's model configs use; others are named in words.
_HUB_LICENCES = {"mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "unknown"}
_NO_CARD = "no data card names their licences"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Where a hub shows a model, its licence among other things.
_PAGES = {
    Hub.huggingface: "https://huggingface.co/{id}",
    Hub.modelscope: "https://www.modelscope.cn/models/{id}",
}
# What the hubs call what a set measures, by what its metrics count.
_TASKS = {
    "queries": {"type": "information-retrieval", "name": "Information Retrieval"},
    "pairs": {"type": "semantic-similarity", "name": "Semantic Similarity"},
}


def render(facts: Facts, report: Mapping[str, Any]) -> str:
    """Write the card in Markdown with YAML front matter."""
    front = yaml.safe_dump(_metadata(facts, report), allow_unicode=True, sort_keys=False, width=100)
    sections = [
        f"# {_cell(_name(facts))}",
        _cell(report["verdict"]),
        f"{_base(facts)}, tuned with the recipe {code(facts.recipe)} for the domain "
        f"{code(facts.domain)} (seed {facts.seed}) by `finetune`.",
        usage.section(facts, report["published"]),
        _scores(report),
        _data(facts),
        _limits(facts, report),
        _licence(facts),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _name(facts: Facts) -> str:
    return f"{facts.domain}-{facts.model.name}"


def _base(facts: Facts) -> str:
    known = facts.base_revision != "unknown"
    return code(facts.base_model) + (f" (revision {code(facts.base_revision)})" if known else "")


def _metadata(facts: Facts, report: Mapping[str, Any]) -> dict[str, Any]:
    results = list(_results(facts, report))
    metadata: dict[str, Any] = {"language": ["zh"], **_licence_metadata(facts.model)}
    if facts.model.id and facts.model.hub is not Hub.local:
        metadata |= {"base_model": facts.model.id, "base_model_relation": "finetune"}
    metadata |= {
        "pipeline_tag": "sentence-similarity",
        "library_name": "sentence-transformers",
        "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "onnx"],
        "datasets": [name for name in _sources(facts) if _HUB_ID.fullmatch(name)],
        "metrics": list(dict.fromkeys(m["type"] for each in results for m in each["metrics"])),
        # ModelScope's words for pipeline and library.
        "tasks": ["sentence-embedding"],
        "domain": ["nlp"],
        "frameworks": ["pytorch", "onnx"],
        "model-index": [{"name": _name(facts), "results": results}],
    }
    return {key: value for key, value in metadata.items() if value != []}


def _licence_metadata(model: Model) -> dict[str, str]:
    """The licence by the id that the hubs know, else by a name and the page that states it."""
    licence = model.licence.lower()
    if licence in _HUB_LICENCES:
        return {"license": licence}
    named = {"license": "other", "license_name": re.sub(r"\W+", "-", licence).strip("-")}
    if model.id and model.hub in _PAGES:
        named["license_link"] = _PAGES[model.hub].format(id=model.id)
    return named


def _results(facts: Facts, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Scores of the tuned model: a result a set, as ``model-index`` wants them."""
    rows = [Score(**row) for row in report["scores"] if row["artifact"] == "tuned"]
    for name in dict.fromkeys(row.set for row in rows if "/" not in row.set):
        scores = [row for row in rows if row.set == name]
        yield {
            "task": _TASKS[counted(scores[0].metric)],
            "dataset": {"name": name, "type": name, "split": "report"},
            "metrics": [
                {
                    "type": row.metric.replace("@", "_at_"),
                    "name": METRIC_NAMES[row.metric],
                    "value": round(row.value, 5),
                }
                for row in scores
            ],
        }


def _scores(report: Mapping[str, Any]) -> str:
    everything = [Score(**row) for row in (*report["baselines"], *report["scores"])]
    rows = [row for row in everything if not is_cut(row.artifact)]
    sets = dict.fromkeys(row.set for row in rows if "/" not in row.set)
    tables = "\n\n".join([
        *(_table(name, [row for row in rows if row.set == name]) for name in sets),
        *map(_lengths, by_length(everything)),
    ])  # fmt: skip
    gates = [f"- **{g['name']}: {g['status']}**. {_cell(g['detail'])}" for g in report["gates"]]
    return (
        "## Scores\n\nIn points (hundredths) ± half the 95 % interval, on what was kept out of "
        "training and of the choice of the checkpoint. Δ is the difference to the base; p is "
        "adjusted for the number of sets (Holm).\n\n"
        f"{tables}\n\n" + "\n".join(gates)
    ).rstrip()


def _table(name: str, rows: Sequence[Score]) -> str:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    main = METRIC_NAMES[metrics[0]]
    heads = ["artifact", *(METRIC_NAMES[metric] for metric in metrics), f"Δ {main}", "p"]
    lines = [
        f"{_cell(name)} ({rows[0].n} {counted(metrics[0])}):\n",
        f"| {' | '.join(heads)} |",
        f"| --- |{' ---: |' * (len(heads) - 1)}",
    ]
    known = {(row.artifact, row.metric): row for row in rows}
    for artifact in dict.fromkeys(row.artifact for row in rows):
        scores = [known[artifact, metric] for metric in metrics]
        cells = [f"{100 * s.value:.1f} ± {50 * (s.ci_high - s.ci_low):.1f}" for s in scores]
        first = scores[0]
        delta = "–" if first.delta is None else f"{100 * first.delta:+.1f}"
        p_value = "–" if first.p_holm is None else p_text(first.p_holm).removeprefix("= ")
        lines.append(f"| {' | '.join([_cell(artifact), *cells, delta, p_value])} |")
    return "\n".join(lines)


def _lengths(found: Lengths) -> str:
    lines = [
        f"{found.metric} on {_cell(found.set)} of vectors cut to their first numbers and "
        "normalised again (`truncate_dim=` in sentence-transformers, `dim=` in "
        "`OnnxEncoder.load`):\n",
        f"| artifact | {' | '.join(found.dims)} |",
        f"| --- |{' ---: |' * len(found.dims)}",
    ]
    for artifact, scores in found.rows.items():
        cells = [f"{100 * s.value:.1f} ± {50 * (s.ci_high - s.ci_low):.1f}" for s in scores]
        lines.append(f"| {' | '.join([_cell(artifact), *cells])} |")
    return "\n".join(lines)


def _data(facts: Facts) -> str:
    summary = facts.data_summary
    pairs, read = summary.get("pairs", "unknown"), summary.get("read", "unknown")
    lines = [f"Training pairs: {pairs}; rows read: {read}."]
    for reason, count in summary.get("dropped", {}).items():
        lines.append(f"- left out: {count} ({_cell(reason)})")
    sources = sorted(map(str, summary.get("sources", ())))
    if sources:
        lines.append("\nSources: " + ", ".join(_cell(name) for name in sources) + ".")
    if "hub" in summary:
        lines.append(f"\nFrom the hub: {code(summary['hub'])}.")
    licences = _cell(facts.data_licences or "unknown: no data card names them")
    lines.append(f"\nLicences of the sources: {licences}.")
    for name, each in summary.get("mixed", {}).items():
        told = f"their licences: {_cell(each['licences'])}" if "licences" in each else _NO_CARD
        lines.append(
            f"\nMixed in: {_cell(name)}, {each['pairs']} pairs (sources: "
            f"{', '.join(map(_cell, each['sources']))}); {told}."
        )
    return "## Data\n\n" + "\n".join(lines)


def _limits(facts: Facts, report: Mapping[str, Any]) -> str:
    notes = [f"- {_cell(note)}" for note in report["notes"]]
    if facts.general_set:
        notes.append(
            f"- Measured on this domain and on {_cell(facts.general_set)} only: what tuning did to "
            "other domains and tasks is unknown."
        )
    notes += [f"- Data: {_cell(flaw)}" for flaw in facts.data_flaws]
    notes.append(f"- Contamination: {_contamination(facts.model.trained_on)}")
    return "## Limits\n\n" + "\n".join(notes)


def _contamination(trained_on: Sequence[str]) -> str:
    if not trained_on:
        return "the base is said to have seen no public evaluation set in training."
    if "unknown" in trained_on:
        return "what the base was trained on is not known."
    names = ", ".join(_cell(name) for name in trained_on)
    return (
        f"the base was trained on {names}. Scores on these sets, or on sets made from them, say "
        "little about unseen data."
    )


def _licence(facts: Facts) -> str:
    licence = facts.model.licence
    words = "unknown; ask its author before any use" if licence == "unknown" else _cell(licence)
    return (
        f"## Licence\n\nLicence of the base model {code(facts.base_model)}: {words}. This tuned "
        "model is derived from it, so that the same terms hold for the tuned model and for every "
        "exported file; the licences of the training data hold besides."
    )


def _sources(facts: Facts) -> list[str]:
    summaries = [facts.data_summary, *facts.data_summary.get("mixed", {}).values()]
    names = {str(name) for each in summaries for name in each.get("sources", ())}
    # Of a hub's data set what stands before the commit.
    return sorted(names | {each["hub"].partition("@")[0] for each in summaries if "hub" in each})


def _cell(text: str) -> str:
    """Return text that cannot break out of a table cell or become markup."""
    escaped = re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", str(text))
    return " ".join(escaped.split())
