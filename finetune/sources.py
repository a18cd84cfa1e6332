"""The files that decide what a run makes, and what is missing of them."""

from dataclasses import replace
from pathlib import Path

from finetune.config import Config, unset
from finetune.config.choices import Hub, Source, Use
from finetune.config.compose import ROOT


def pinned(config: Config) -> Config:
    """Name the commit of each data set of the hub, which stands for its content in keys.

    Raises:
        UserError: When one cannot be had.
    """
    from finetune.data import hub

    def train(source: str | None) -> str | None:
        return hub.pinned(source) if source and hub.is_hub_id(source) else source

    return replace(
        config,
        domain=replace(config.domain, train=train(config.domain.train)),
        mix={name: replace(each, train=train(each.train)) for name, each in config.mix.items()},
    )


def set_files(config: Config) -> dict[str, Path]:
    """The folders that evaluate the domain."""
    domain = config.domain
    if domain.source is Source.statutes:
        from finetune.data import statutes

        return statutes.files()
    from finetune.data import beir

    folders = {name: path for name, path in (("dev", domain.dev), ("test", domain.test)) if path}
    for name, folder in folders.items():  # one that is no evaluation folder is told as that
        beir.kind(folder, f"domain.{name}=")
    return folders


def pair_files(config: Config) -> dict[str, Path]:
    """The file of the domain's pairs; the commit of a hub id is part of the settings."""
    domain = config.domain
    if domain.source is Source.statutes:
        from finetune.data import statutes

        return statutes.files()
    from finetune.data.hub import is_hub_id
    from finetune.data.load import file_or_folder

    if not domain.train or is_hub_id(domain.train):
        return {}
    return {"train": file_or_folder(domain.train)}


def document_files(config: Config) -> dict[str, Path]:
    """The documents that pairs are made from; none where none are named.

    Raises:
        UserError: They are not there, or of another kind.
    """
    from finetune.data.documents import existing_documents

    documents = config.domain.documents
    return {"documents": existing_documents(documents)} if documents else {}


def model_files(config: Config) -> dict[str, Path]:
    """The folder of a model of one's own."""
    if config.model.hub is not Hub.local:
        return {}
    from finetune.hub import local_folder

    return {"model": local_folder(config.model)}


def unplaced(config: Config) -> list[str]:
    """Ask for the folder in which the files of the domain's data card lie."""
    domain, data = config.domain, config.paths.data
    if data is not None and not data.is_dir():
        from finetune.data.lines import beside
        from finetune.data.problems import meant

        fix = meant(data.name, beside(data), "correct the path")
        return [f"paths.data={data}: no such folder; {fix}"]
    if not unset(domain.train) and not unset(domain.dev):
        return []
    from finetune.data.card import read_card

    files = "; ".join(read_card(domain.name).files)
    return [f"domain={domain.name}: set paths.data=<folder>, in which are expected: {files}"]


def missing_data(config: Config) -> list[str]:
    """What the domain needs and has not been given."""
    if asked := unplaced(config):
        return asked
    domain = config.domain
    no_pairs = domain.train is None and Use.only not in (config.generate.use, config.pseudo.use)
    from finetune.data.parts import EXPECTED

    return [
        f"domain.{key}: not set; {what}"
        for key, missing, what in (
            ("train", no_pairs, "name a jsonl, json, csv, tsv, parquet or xlsx file of pairs, "
             "a BEIR-shaped folder, or a hub id; "
             "recipes=documents makes pairs from documents alone, recipes=queries from queries"),
            ("dev", not domain.dev, f"name a folder with {EXPECTED[domain.kind]}; no such "
             "folder yet? finetune split <pairs> --out own makes one of some of the pairs"),
        )
        if missing
    ]  # fmt: skip


def cards(config: Config) -> dict[str, Path]:
    """The data cards of the domain and the sets mixed in, and the catalogues of sets of the hub.

    A domain of one's own may have no card.
    """
    from finetune.data import catalogue
    from finetune.data.hub import is_hub_id

    named = {"card": config.domain.name} | {f"card-{name}": name for name in config.mix}
    paths = {key: ROOT / "data_cards" / f"{name}.md" for key, name in named.items()}
    found = {key: path for key, path in paths.items() if path.is_file()}
    trains = (config.domain.train, *(each.train for each in config.mix.values()))
    of_hub = any(train and is_hub_id(train) for train in trains)
    return found | ({"catalogues": catalogue.FOLDER} if of_hub else {})
