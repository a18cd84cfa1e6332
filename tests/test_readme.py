"""What README.md and docs/ promise: their Python runs, their links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.choices import Source
from finetune.config.compose import ROOT, compose
from finetune.sources import missing_data

README = ROOT / "README.md"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FOLDER = "runs/…/bundle"  # as README names it
WITHOUT = ("torch", "transformers", "sentence_transformers", "onnx")


def test_the_python_of_the_readme_runs_as_it_stands(tiny_bundle):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert FOLDER in code
    # None makes an import fail, wherever the package lies.
    lines = [f"import sys\nfor name in {WITHOUT!r}: sys.modules[name] = None",
             code.replace(FOLDER, str(tiny_bundle)),
             "assert vectors.shape[0] == 1 and abs((vectors**2).sum() - 1) < 1e-5"]  # fmt: skip
    words = [sys.executable, "-X", "utf8", "-c", "\n".join(lines)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def anchors(text):
    """As a heading is named in a link: lower case, hyphens for spaces, no other marks."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = (page.parent / name) if name else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there.read_text("utf-8")), link


def settings(page):
    """The settings, but for quoted ones, of each whole command line with recipe and domain."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"recipes=[^`#\n]*domain=[^`#\n]*", text):
        if "…" not in line:
            yield re.findall(r"(?<!\S)[\w.]+=[^\s']+", re.sub(r"<[^>]*>", "x", line))


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: page.name)
def test_commands_name_all_that_a_run_needs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for line in settings(page):
        config = compose(line)
        assert config.domain.source is Source.statutes or missing_data(config) == [], line
