"""The pages of a study and of an ablation as a person opens them: a file, a browser, no network.

Screenshots of each section go to build/screenshots.
"""

import re
import shutil
from pathlib import Path

import pytest

from ptune.replay import read_study
from ptune.results.ablation_report import ablation_files
from ptune.results.report import write_report
from tests.example_study import example_study
from tests.results.test_ablation import frame, result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine's PATH")
STUDY = [
    "Results",
    "Comparisons",
    "What each stream adds",
    "Errors",
    "Clips",
    "Folds",
    "Search",
    "Learning curves",
    "Which settings matter",
]
STUDY += ["Attention", "Trials", "Methods"]
TASK = ["each cell", "columns", "metrics", "errors", "folds"]
ABLATION = ["Cells", *(f"{task}: {name}" for task in ("Hand", "Gait") for name in TASK), "Methods"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    ledger = example_study(root / "ledger", trials=24)
    importance = {"modality": 0.6, "learning_rate": 0.3, "attention": 0.1}
    return write_report(root / "out", "hand", read_study(ledger, "hand"), ledger, importance=importance)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    rows = {"always mild": [frame(0.33, 1)], "nuisance only (duration, brightness)": [frame(0.5, 2)]}
    path = tmp_path_factory.mktemp("ablation") / "report.html"
    path.write_bytes(ablation_files(result([0.4, 0.4, 0.95, 0.5, 0.4, 0.6], rows=rows))["report.html"])
    return path


@pytest.mark.parametrize(("name", "headings"), [("study", STUDY), ("ablation", ABLATION)])
def test_every_section_can_be_read_without_a_network(browser, name, headings, request):
    path, asked = request.getfixturevalue(name), []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(path.as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [heading.inner_text() for heading in page.query_selector_all("h2")] == headings
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    for section in page.query_selector_all("section"):
        heading = section.query_selector("h2")
        title = heading.inner_text() if heading else "top"
        box = section.bounding_box()
        assert box is not None
        assert box["height"] > 30, f"{title} is empty"
        for figure in section.query_selector_all("svg"):
            assert figure.bounding_box()["width"] > 200, f"a figure of {title} is too small to read"
        for table in section.query_selector_all("table"):
            assert table.evaluate("node => node.scrollWidth <= node.closest('main').clientWidth"), f"{title} is cut off"
        section.screenshot(path=SCREENSHOTS / f"{name}-{re.sub(r'[^a-z]+', '-', title.lower())}.png")
    page.close()
