"""What data cards say of the domain and of what is mixed in reaches the report."""

from dataclasses import replace

from finetune import sources
from finetune.config.compose import compose
from finetune.data.card import read_card
from finetune.data.catalogue import FOLDER
from finetune.records import write_json
from finetune.steps import reporting


def test_the_cards_of_mixed_sets_are_files_of_the_report(tmp_path):
    plain = sources.cards(compose(["recipes=full", "domain=statutes"]))
    mixed = sources.cards(compose(["recipes=full", "mix=general", f"paths.data={tmp_path}"]))
    assert {key: path.stem for key, path in plain.items()} == {"card": "statutes"}
    assert {key: path.stem for key, path in mixed.items()} == {
        "card": "statutes", "card-general": "general",
    }  # fmt: skip


def test_a_mixed_set_brings_the_licences_of_its_card(tmp_path):
    read = {"general": {"pairs": 3}, "mine": {"pairs": 2}}
    write_json(tmp_path / "summary.json", read)
    card = sources.cards(compose(["recipes=full", "mix=general", "paths.data=/data"]))
    found = reporting.mixed_in({"mixed": tmp_path} | card)
    assert found["general"] == {"pairs": 3, "licences": read_card("general").licence_line}
    assert found["mine"] == {"pairs": 2}


def test_what_the_card_says_of_the_base_reaches_the_report(tmp_path):
    config = compose(["recipes=cosent", "domain=afqmc", "model=m3e-base", f"paths.data={tmp_path}"])
    found = reporting.of_card(sources.cards(config), config.model, {})
    assert found["data_seen"] == "AFQMC, probably (through SimCLUE)"
    other = replace(config.model, name="bge-m3")
    assert reporting.of_card(sources.cards(config), other, {})["data_seen"] is None


def test_of_a_set_of_the_hub_the_catalogue_tells_licence_and_flaws(tmp_path):
    config = compose(["recipes=full", "domain=custom", "domain.train=C-MTEB/BQ@main:train"])
    files = sources.cards(config)
    assert files["catalogues"] == FOLDER  # what they say is part of the report's key
    found = reporting.of_card(files, config.model, {"hub": "C-MTEB/BQ@0123:train"})
    assert found["data_licences"].startswith("unknown (BQ: unknown (mteb: not specified")
    assert found["data_flaws"][-1].startswith("BQ: mostly questions about one online loan")
    write_json(tmp_path / "summary.json", {"custom": {"pairs": 2, "hub": "mteb/LeCaRDv2@0123"}})
    mixed = reporting.mixed_in({"mixed": tmp_path, "card-custom": files["card"]})
    assert mixed["custom"]["licences"] == "commercial (LeCaRDv2 (mteb form): mit)"
