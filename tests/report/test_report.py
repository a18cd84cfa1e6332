"""The files that a report is made of."""

import dataclasses
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import yaml
from rich.console import Console
from synthetic import EVIL, make_set, write_outcomes

from finetune import report
from finetune.config.choices import Hub
from finetune.report.facts import Facts

VOID = {"meta", "br", "circle", "line", "polyline", "rect", "link"}


class Balanced(HTMLParser):
    """Notes tags that are opened and not closed, and everything that would load something."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def shown(renderable, width=100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(renderable)
    return console.export_text()


@pytest.fixture
def built(facts, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    return report.build(facts, out), out


def test_what_a_million_vectors_cost(facts, tmp_path):
    # 1,200 texts a second are 4,320,000 an hour; at 0.54 an hour a million costs 0.125.
    evaluate = dataclasses.replace(facts.evaluate, machine_price=0.54, currency="CNY")
    content = report.build(dataclasses.replace(facts, evaluate=evaluate), tmp_path)
    row = next(row for row in content["speed"] if row["artifact"] == "onnx-int8-dynamic")
    assert row["vectors_per_hour"] == 4_320_000
    assert content["machine"] == {"price": 0.54, "currency": "CNY", "timed_on": []}
    assert row["price_per_million"] == pytest.approx(0.125)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<td>4,320,000</td>\n<td>0.125</td>" in page and "at 0.54 CNY an hour" in page
    assert "Timed on the machine that ran this. " in page


def test_on_which_machine_it_was_timed(facts, tmp_path):
    here = {"machine": "AMD EPYC, 2 CPUs", "threads": 2}
    speeds = {name: {**speed, **here} for name, speed in facts.speeds.items()}
    content = report.build(dataclasses.replace(facts, speeds=speeds), tmp_path)
    assert content["machine"]["timed_on"] == [{**here, "artifacts": list(speeds)}]
    assert all(key not in row for row in content["speed"] for key in here)  # MLflow takes numbers
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Timed on AMD EPYC, 2 CPUs, 2 threads. " in page
    speeds["base"] = {**speeds["base"], "machine": "H100"}  # timed there, and cached
    content = report.build(dataclasses.replace(facts, speeds=speeds), tmp_path)
    assert [each["artifacts"][0] for each in content["machine"]["timed_on"]] == ["base", "tuned"]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Timed on H100, 2 threads (base); AMD EPYC, 2 CPUs, 2 threads (tuned, onnx" in page


def test_without_a_price_there_is_none(built):
    content, out = built
    assert all("price_per_million" not in row for row in content["speed"])
    page = (out / "report.html").read_text("utf-8")
    assert "4,320,000" in page and "a million vectors" not in page.lower()


def test_report_json_keeps_the_contract(built):
    content, out = built
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == content
    assert content["stages"] == []
    row_types = {
        "artifact": str, "set": str, "metric": str, "value": float, "n": int, "ci_low": float,
        "ci_high": float, "delta": (float, type(None)), "p_value": (float, type(None)),
        "delta_low": (float, type(None)), "delta_high": (float, type(None)),
        "p_holm": (float, type(None)),
    }  # fmt: skip
    for row in content["scores"] + content["baselines"]:
        assert row.keys() == row_types.keys()
        assert all(isinstance(row[key], kind) for key, kind in row_types.items())
    assert {row["artifact"] for row in content["scores"]} == {
        "base", "tuned", "onnx-fp32", "onnx-int8-dynamic",
    }  # fmt: skip
    assert {row["artifact"] for row in content["baselines"]} == {"bm25"}
    for row in content["scores"]:
        assert (row["delta"] is None) == (row["p_value"] is None) == (row["artifact"] == "base")
    assert [gate["name"] for gate in content["gates"]] == ["gain", "int8"]
    for gate in content["gates"]:
        assert {"name", "status", "value", "threshold"} <= gate.keys()
        assert gate["status"] in ("passed", "failed", "inconclusive")
    assert {"artifact", "latency_ms", "texts_per_second", "bytes"} <= content["speed"][0].keys()


@pytest.mark.parametrize("columns", [30, 72, 100])
def test_the_terminal_cuts_nothing_off(built, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    content, _ = built
    for row in content["speed"]:  # as large as they come
        row |= {"latency_ms": 12345.6, "texts_per_second": 123456.7, "bytes": 12_345_600_000}
    report.show(report.terminal(content))
    shown = capsys.readouterr().out
    assert "…" not in shown
    rows = [line for line in shown.splitlines() if " ± " in line or "±" in line]
    assert all("12,345.6" in line for line in rows if "123,457" in line)
    assert sum("123,457" in line for line in rows) == len(content["speed"])


def test_same_facts_same_report(facts, built, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    report.build(facts, again)
    for path in sorted(built[1].rglob("*.*")):
        assert (again / path.relative_to(built[1])).read_bytes() == path.read_bytes()


def test_page_is_whole_and_self_contained(built):
    content, out = built
    page = (out / "report.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads == [], "nothing is loaded"
    assert not re.search(r"url\(|@import", page)
    assert parser.tags.count("script") == 1
    assert parser.tags.count("svg") == 5
    assert "is in dropped/ of the run" in page
    assert (out / "report.html").stat().st_size < 5_000_000
    body = page.split("<body>")[1]
    assert body.strip().startswith(f"<h1>{content['verdict'].replace('<', '&lt;')}</h1>")


def test_page_escapes_text_from_data(built):
    page = (built[1] / "report.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page


def test_names_from_data_are_escaped_everywhere(facts, tmp_path):
    each = make_set("a<b>&|set")
    for folder, artifact, value in (("base", "base", 0.4), ("tuned", "tuned", 0.5)):
        write_outcomes(tmp_path / "evil" / folder, artifact, each, [value] * len(each.queries))
    evil = dataclasses.replace(
        facts,
        outcomes=sorted((tmp_path / "evil").iterdir()),
        sets=[each],
        domain_set=each.name,
        domain="[red]<i>domain",
        data_summary={"pairs": 1, "read": 1, "dropped": {"<u>why": 1}, "sources": ["a/b", "<s>"]},
    )
    content = report.build(evil, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for tag in ("<b>&", "<i>domain", "<u>why"):
        assert tag not in page
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert r"a\<b\>&\|set" in card and r"\<u\>why" in card
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["a/b"]
    for plot in (tmp_path / "plots").iterdir():
        ET.parse(plot)
    assert "a<b>&|set" in shown(report.terminal(content))


def test_plots_are_svg_files(built):
    plots = sorted((built[1] / "plots").iterdir())
    assert [plot.stem for plot in plots] == ["kinds", "loss", "scores", "select", "speed"]
    for plot in plots:
        root = ET.parse(plot).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        for x in re.findall(r' (?:x|x1|x2|cx)="(-?[\d.]+)"', plot.read_text(encoding="utf-8")):
            assert 0 <= float(x) <= 360


def test_verdict_better(built):
    assert re.fullmatch(
        r"Better than the base on statutes by 1\d\.\d ± \d\.\d points; INT8 loses nothing\.",
        built[0]["verdict"],
    )


def test_verdict_not_improved(not_improved, tmp_path):
    content = report.build(not_improved, tmp_path)
    assert content["verdict"].startswith("Not improved: the guard kept the base")
    gates = {gate["name"]: gate["status"] for gate in content["gates"]}
    assert gates == {"gain": "failed", "int8": "passed"}  # though the fixture's scores rose
    assert not any("show differences from" in note for note in content["notes"])


def rebuilt(facts: Facts, tmp_path, *, base, tuned, int8=None):
    """Build from other values on the domain's set alone."""
    each = make_set()
    folder = tmp_path / "other"
    for artifact, values in (
        ("base", base), ("tuned", tuned), ("onnx-fp32", tuned), ("onnx-int8-dynamic", int8),
    ):  # fmt: skip
        if values is not None:
            write_outcomes(folder, artifact, each, values)
    return report.build(dataclasses.replace(facts, outcomes=[folder], sets=[each]), tmp_path)


def test_verdict_noise_and_worse(facts, tmp_path):
    base = [0.2, 0.4, 0.6, 0.8] * 12
    one_better = [0.3, *base[1:]]
    noise = rebuilt(facts, tmp_path / "a", base=base, tuned=one_better, int8=base)
    assert noise["verdict"].startswith("Inside the noise: +0.2 ± ")
    assert noise["verdict"].endswith("INT8 loses 0.2.")
    assert [gate["status"] for gate in noise["gates"]] == ["failed", "passed"]
    worse = rebuilt(facts, tmp_path / "b", base=base, tuned=[v - 0.1 for v in base])
    assert worse["verdict"].startswith("Worse than the base on statutes by 10.0 ± 0.0 points")


def with_general(facts: Facts, tmp_path, change) -> dict:
    """Build with a general set on which tuning changed every query by what ``change`` gives."""
    each = make_set("everything")
    base = [0.2, 0.4, 0.6, 0.8] * 12
    tuned = [value + change(row) for row, value in enumerate(base)]
    folder = tmp_path / "general"
    for artifact, values in (("base", base), ("tuned", tuned)):
        write_outcomes(folder, artifact, each, values)
    return report.build(
        dataclasses.replace(facts, outcomes=[*facts.outcomes, folder], sets=[*facts.sets, each],
                            general_set="everything"), tmp_path,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda row: 0.001, "passed", "; general ability +0.1 ± 0.0 points; INT8"),
        (lambda row: 0.001 * (-1) ** (row // 4), "passed", "; general ability unchanged; INT8"),
        (lambda row: -0.02, "failed", "general ability -2.0 ± 0.0 points (it may lose 0.5); INT8"),
        (lambda row: -0.48 if row == 3 else 0, "inconclusive", "(too few queries to tell"),
    ],
)
def test_the_general_set_has_its_gate_and_a_place_in_the_verdict(
    facts, tmp_path, change, status, said
):
    content = with_general(facts, tmp_path, change)
    assert {gate["name"]: gate["status"] for gate in content["gates"]} == {
        "gain": "passed", "general": status, "int8": "passed"
    }  # fmt: skip
    assert said in content["verdict"]
    assert {row["artifact"] for row in content["scores"] if row["set"] == "everything"} == {
        "base", "tuned"
    }  # fmt: skip
    assert not any("Forgetting was not" in note for note in content["notes"])
    assert f"general: {status}" in shown(report.terminal(content), width=80)


def test_the_merge_is_told(facts, tmp_path):
    merge = {
        "weight": 0.5, "why": "0.5 of the tuned weights and 0.5 of the base's", "sets": ["a", "b"],
        "table": [{"weight": w, "scores": [0.5 + w / 10, 0.8 - w / 10]} for w in (0.0, 0.5, 1.0)],
    }  # fmt: skip
    content = report.build(dataclasses.replace(facts, merge=merge), tmp_path)
    assert content["merge"] == merge
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<tr><td>0.5</td><td>55.0</td><td>75.0</td>\n<td>published</td></tr>" in page
    assert page.count("published</td>") == 1
    assert "Merged with the base: 0.5 of the tuned" in (tmp_path / "README.md").read_text("utf-8")


def test_without_training_and_tuned(facts, tmp_path):
    only_base = dataclasses.replace(
        facts, outcomes=facts.outcomes[:1], training=None, mining=None, curves=None,
        speeds={"base": facts.speeds["base"]}, parity={},
    )  # fmt: skip
    content = report.build(only_base, tmp_path)
    assert content["gates"] == []
    assert content["verdict"].startswith("Nothing to compare")
    assert "bm25" in shown(report.terminal(content))


def test_notes(facts, tmp_path):
    model = dataclasses.replace(facts.model, trained_on=["Statutes-zh", "unknown"])
    told = dataclasses.replace(facts, model=model, data_seen="Articles, <probably>")
    notes = report.build(told, tmp_path)["notes"]
    assert any(note.startswith("The base saw statutes in training") for note in notes)
    assert r"by the data card: Articles, \<probably\>." in (tmp_path / "README.md").read_text(
        "utf-8"
    )
    assert "data card: Articles, &lt;probably&gt;" in (tmp_path / "report.html").read_text("utf-8")
    assert any("is unknown" in note for note in notes)
    assert any("evaluate.general=<folder>" in note for note in notes)
    words = r"The 48 queries of statutes show .* about (\d\.\d) points"
    told = [re.search(words, note) for note in notes]
    # The fixture's gains are spread by 5 points: 2.80 x .05 / sqrt(48)
    assert [float(each[1]) for each in told if each] == [pytest.approx(2.0, abs=0.4)]
    each = make_set()
    write_outcomes(tmp_path / "lexical", "bm25", each, [0.9] * 48)
    write_outcomes(tmp_path / "lexical", "tuned", each, [0.5] * 48)
    beaten = dataclasses.replace(facts, outcomes=[tmp_path / "lexical"])
    assert report.build(beaten, tmp_path)["notes"][0].startswith("BM25, which only counts")


def test_card_front_matter(built):
    card = (built[1] / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "mit"
    assert front["base_model"] == "intfloat/multilingual-e5-small"
    assert front["language"] == ["zh"]
    assert front["pipeline_tag"] == "sentence-similarity"
    results = front["model-index"][0]["results"]
    assert [result["dataset"]["name"] for result in results] == ["statutes", "statutes-traditional"]
    tuned = next(r for r in built[0]["scores"] if r["artifact"] == "tuned")
    assert results[0]["metrics"][0]["value"] == pytest.approx(tuned["value"], abs=1e-5)
    for words in ("MSMARCO, NQ", "Licence of the base model", "OnnxEncoder", "exact duplicate"):
        assert words in card


def test_card_says_a_restricting_licence_in_words(facts, tmp_path):
    model = dataclasses.replace(
        facts.model, hub=Hub.huggingface, id="moka-ai/m3e-base",
        licence="non-commercial, research use only",
    )  # fmt: skip
    report.build(dataclasses.replace(facts, model=model), tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other"
    assert front["license_name"] == "non-commercial-research-use-only"
    assert front["license_link"] == "https://huggingface.co/moka-ai/m3e-base"
    assert "`moka-ai/m3e-base`: non-commercial, research use only." in card
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "non-commercial, research use only" in page


def test_terminal(built):
    text = shown(report.terminal(built[0]), width=80)
    for word in ("bm25", "onnx-int8-dynamic", "± ", "gain: passed", "138.0", "Better than"):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_no_torch_and_no_tracker_are_imported():
    code = (
        "import sys, finetune.report, finetune.tracking;"
        "found = {'torch', 'transformers', 'mlflow', 'matplotlib'} & sys.modules.keys();"
        "sys.exit(str(found) if found else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
