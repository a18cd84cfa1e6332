"""The report step: gather what the other steps left, and have it measured, judged and written."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import Model
from finetune.config.writing import cost
from finetune.disk import Spilled
from finetune.records import read_json
from finetune.script import KEEP
from finetune.sets import AnySet, only_set, read_sets
from finetune.stage import Inputs, Settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from finetune.data.catalogue import PublicSet

_NOISE = 8  # pairs that were left out, shown


def report(settings: Settings, inputs: Inputs, out: Path) -> None:
    """Put the scores, their uncertainty and the gates together."""
    from finetune.evaluation import cmteb
    from finetune.inference import BundleInfo
    from finetune.report import Facts, build
    from finetune.report.scripts import is_converted
    from finetune.steps import rounds
    from finetune.steps.noise import samples

    halves = inputs["sets"]
    sets = read_sets(halves / "report")
    names, selected = [each.name for each in sets], only_set(halves / "select").name
    general = only_set(inputs["general"] / "report") if "general" in inputs else None
    more = read_json(inputs["noise"] / "summary.json") if "noise" in inputs else {}
    if "written" in inputs:
        more["written"] = written(inputs["written"], settings["prices"])
    if settings.get("distill") is None:  # a student is not taught what would be cut
        more["cut by training"] = cut(settings, inputs)
    if "mixed" in inputs:
        more["mixed"] = mixed_in(inputs)
    if "augment" in inputs:
        more["augment"] = read_json(inputs["augment"] / "summary.json")["augment"]
    if "script" in inputs:
        more["script"] = read_json(inputs["script"] / "summary.json")["script"]
    given = [each for each in sets if not is_converted(each.name)]
    told = [*given, general] if general else given
    build(
        Facts(
            recipe=settings["recipe"],
            domain=settings["domain"],
            model=settings["model"],
            evaluate=settings["evaluate"],
            seed=settings["seed"],
            lang=settings["report"].lang,
            **of_card(inputs, settings["model"], read_json(inputs["data"] / "summary.json")),
            adapter=rounds.adapted(inputs) and settings.get("distill") is None,
            dim=BundleInfo.read(inputs["export"] / "bundle").default_dim,
            distill=settings.get("distill"),
            outcomes=[inputs[name] / "outcomes" for name in inputs if name.startswith("evaluate")],
            speeds=read_json(inputs["evaluate_base"] / "speed.json")
            | read_json(inputs["evaluate"] / "speed.json"),
            data_summary=read_json(inputs["data"] / "summary.json") | more,
            mining=rounds.mining(inputs) if settings["mined"] else None,
            training=rounds.training(inputs),
            curves=rounds.curves(inputs, out),
            parity=read_json(inputs["export"] / "parity.json"),
            sets=[*sets, general] if general else sets,
            domain_set=selected if selected in names else names[0],  # that of domain.test
            general_set=general.name if general else None,
            merge=read_json(inputs["merge"] / "merge.json") if "merge" in inputs else None,
            select=(inputs["evaluate"] / "select", only_set(halves / "select")),
            tokens=tokens_of(
                inputs, told, settings["model"].max_length, settings["domain"], settings["scripts"]
            ),
            script=settings.get("script", KEEP),
            noise=samples(inputs["noise"], _NOISE) if "noise" in inputs else (),
            cmteb=cmteb.rows(inputs, settings["model"], read_json(inputs["data"] / "summary.json")),
        ),
        out,
    )


def cut(settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """How many of the domain's texts training cuts, what of their tokens, and by which setting."""
    from finetune.data import lengths, tokens

    texts = Spilled(str, tokens.domain_texts([inputs["data"]]))
    found = lengths.cut(texts, _tokenizer(inputs), 1.0, settings["model"], settings["max_length"])
    return {"texts": found.texts, "of": found.of, "share of tokens": found.tokens,
            "setting to raise": found.setting}  # fmt: skip


def tokens_of(
    inputs: Inputs, sets: Sequence[AnySet], window: int, domain: str, settings: Settings
) -> dict[str, Any]:
    """Report on the tokenizer of a run's bundle.

    Args:
        inputs: ``export`` (the bundle's step), ``data`` (the training rows'), and, where there
            are, ``mixed`` (the mixed sets'), ``characters`` (those that were added) and
            ``dictionary`` (the user's).
        sets: Evaluation sets.
        window: Tokens that the model reads.
        domain: What the training rows are called.
        settings: ``script`` and ``opencc``, which name the scripts.

    Returns:
        What `report` does, and ``added``: characters with the counterpart whose embedding they got.
    """
    from finetune.data import tokens
    from finetune.data.script import Scripts

    tokenizer = _tokenizer(inputs)
    scripts = Scripts.of(settings["script"], settings["opencc"], inputs.get("dictionary"))
    texts: dict[str, Sequence[str]] = {
        f"{domain}, training": Spilled(str, tokens.domain_texts([inputs["data"]]))
    }
    if "mixed" in inputs:
        texts |= {path.parent.name: Spilled(str, tokens.domain_texts([path.parent]))
                  for path in sorted(inputs["mixed"].glob("*/train.jsonl"))}  # fmt: skip
    for each in sets:
        for prompt, name in (("query", "queries"), ("passage", "passages")):
            found = [text for kind, text in each.prompted if kind == prompt]
            texts |= {f"{each.name}, {name}": found} if found else {}
    added = inputs["characters"] / "characters.json" if "characters" in inputs else None
    told = tokens.report(tokenizer, texts, window, scripts.converts)
    return told | {"added": read_json(added) if added else {}}


def _tokenizer(inputs: Inputs) -> "Tokenizer":
    """The bundle's."""
    from tokenizers import Tokenizer

    from finetune.inference.bundle import TOKENIZER_FILE

    return Tokenizer.from_file(str(inputs["export"] / "bundle" / TOKENIZER_FILE))


def of_card(inputs: Inputs, model: Model, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the data card, and a catalogue of a set of the hub, say that the report must say too."""
    from finetune.data.card import read_card
    from finetune.data.frontmatter import UNKNOWN

    told: dict[str, Any] = {}
    if "card" in inputs:
        card = read_card(inputs["card"])
        told = {"data_licences": card.licence_line, "data_flaws": card.known_flaws,
                "data_seen": card.contamination.get(model.name)}  # fmt: skip
    if known := _published(summary):
        told["data_licences"] = known.licence_line
        if known.flaws != UNKNOWN:
            told["data_flaws"] = (*told.get("data_flaws", ()), f"{known.name}: {known.flaws}")
    return told


def _published(summary: Mapping[str, Any]) -> "PublicSet | None":
    """What a catalogue has of the set of the hub that was read."""
    from finetune.data import catalogue

    if "hub" not in summary:
        return None
    _, known = catalogue.find(summary["hub"].partition("@")[0]) or (None, None)
    return known


def written(folder: Path, prices: Mapping[str, Any]) -> dict[str, Any]:
    """What came of the queries that a model wrote, and what they cost by the tokens counted.

    Each reply counts once, in whichever run it was asked for.
    """
    told: dict[str, Any] = read_json(folder / "summary.json")["written"]
    paid = cost(told["tokens in"], told["tokens out"], (prices["in"], prices["out"]))
    if math.isnan(paid):
        return told
    known = "replies without tokens" not in told
    name = f"cost in {prices['currency']} when asked for"
    return {**told, name: round(paid, 4) if known else "unknown"}


def mixed_in(inputs: Inputs) -> dict[str, Any]:
    """What was read of the sets mixed in, with the licences that catalogues or data cards name."""
    from finetune.data.card import read_card

    told: dict[str, Any] = read_json(inputs["mixed"] / "summary.json")
    for name, each in told.items():
        known = _published(each)
        if known is not None:
            each["licences"] = known.licence_line
        elif f"card-{name}" in inputs:
            each["licences"] = read_card(inputs[f"card-{name}"]).licence_line
    return told
