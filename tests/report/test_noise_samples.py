"""Samples of what was left out as noise, on the page."""

import dataclasses

from synthetic import EVIL

from finetune import report
from finetune.config.choices import Lang


def built(facts, folder, **changes):
    folder.mkdir()
    report.build(dataclasses.replace(facts, **changes), folder)
    return (folder / "report.html").read_text("utf-8")


def test_samples_have_their_rank_and_source_in_either_language(facts, tmp_path):
    noise = [{"rank": 0.25, "kept": False, "id": "1", "query": f"退款 {EVIL}",
              "positive": "您好，" + "很长" * 300, "source": "jddc", "negatives": []}]  # fmt: skip
    page = built(facts, tmp_path / "en", noise=noise)
    assert "<h2>Left out as noise</h2>" in page and "rank 0.250 · jddc" in page
    assert "退款 &lt;script&gt;" in page and EVIL not in page and "很长…" in page
    assert "排名 0.250 · jddc" in built(facts, tmp_path / "zh", noise=noise, lang=Lang.zh)


def test_without_any_there_is_no_section(facts, tmp_path):
    assert "Left out as noise" not in built(facts, tmp_path / "en")
