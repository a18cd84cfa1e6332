"""The page in a real browser: nothing hangs over, tables sort, light and dark."""

import dataclasses

import pytest
from browsing import chromium

from finetune import report
from finetune.config.choices import Lang

pytestmark = pytest.mark.browser

PHONE, DESK = 390, 1280
# Text of a plot that does not lie inside its drawing.
_CLIPPED = """() => [...document.querySelectorAll("svg text")].filter(text => {
  const box = text.getBBox(), drawing = text.ownerSVGElement.viewBox.baseVal;
  return box.x < -1 || box.x + box.width > drawing.width + 1 ||
    box.y < -2 || box.y + box.height > drawing.height + 2;
}).map(text => text.textContent)"""
_COLUMN = """([table, column]) =>
  [...document.querySelectorAll("table.sorts")[table].tBodies[0].rows]
  .map(row => row.cells[column].textContent.trim())"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(near, tmp_path, browser):
    """Open the page of a run; note what it asks for and what goes wrong."""
    pages = []

    def opened(lang=Lang.en, width=DESK, scheme="light"):
        (tmp_path / lang.value).mkdir(exist_ok=True)
        report.build(dataclasses.replace(near, lang=lang), tmp_path / lang.value)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda said: page.wrong.append(said.text))
        page.goto((tmp_path / lang.value / "report.html").as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()


@pytest.mark.parametrize("lang", Lang)
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_nothing_hangs_over_and_nothing_is_loaded(open_page, lang, width, scheme):
    page = open_page(lang, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_CLIPPED) == []
    assert page.locator("svg").count() == 6
    assert len(page.asked) == 1, "the page alone"
    assert page.wrong == []
    assert page.locator("h1").bounding_box()["y"] < 60, "the verdict comes first"


def test_tables_sort_by_the_heading_that_is_clicked(open_page):
    page = open_page()
    heading = page.locator("table.sorts").first.locator("th").nth(1)
    before = page.evaluate(_COLUMN, [0, 1])
    for direction in ("descending", "ascending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == direction
        values = [float(cell.split()[0]) for cell in page.evaluate(_COLUMN, [0, 1])]
        assert values == sorted(values, reverse=direction == "descending")
    assert sorted(before) == sorted(page.evaluate(_COLUMN, [0, 1])) != before
    names = page.locator("table.sorts").first.locator("th").nth(0)
    names.locator("button").press("Enter")
    assert page.evaluate(_COLUMN, [0, 0]) == sorted(page.evaluate(_COLUMN, [0, 0]))
    assert names.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None


def test_dark_is_dark_and_light_is_light(open_page):
    style = "getComputedStyle({}).{}"
    for scheme, dark in (("light", False), ("dark", True)):
        page = open_page(scheme=scheme)
        ground = page.evaluate(style.format("document.body", "backgroundColor"))
        text = page.evaluate(style.format('document.querySelector("svg text")', "fill"))
        assert (brightness(ground) < 60) == dark
        assert (brightness(text) > 140) == dark


def brightness(colour: str) -> float:
    red, green, blue = map(float, colour.removeprefix("rgb(").removesuffix(")").split(","))
    return 0.3 * red + 0.6 * green + 0.1 * blue
