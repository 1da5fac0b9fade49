"""What people see: the MLflow UI as `ptune ui` starts it, on an example study, in a real browser.

Screenshots go to build/screenshots.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ptune.home import Home
from ptune.results.summary import report_study
from ptune.track.project import Projector
from tests.example_study import example_study
from tests.track.live import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PATIENCE_MS = 60_000
#: Without a sandbox, because tests may run as root; without what asks the network.
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine's PATH")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Home:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        home = Home.open(tmp_path_factory.mktemp("home"))
        example_study(home.ledger, trials=24)
        report_study(home, "hand")
        Projector(home, "hand").sync()
    return home


@pytest.fixture(scope="module")
def address(study: Home) -> Iterator[str]:
    """Where `ptune ui` serves the study."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", "from ptune.cli import main; main()", "ui", "--port", str(port)]
    with open(study.root / "ui.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--home", str(study.root)], start_new_session=True, stdout=log, stderr=log, env=environment
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (study.root / "ui.log").read_text()
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def page() -> Iterator["Page"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def shot(page: "Page", name: str, full: bool = False) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=full)


def test_the_trials_table_lists_runs_with_settings_and_metrics(study: Home, address: str, page: "Page") -> None:
    experiment = Projector(study, "hand").store.experiment
    page.goto(f"{address}/#/experiments/{experiment}/runs")
    page.get_by_text("25 matching runs").wait_for()
    page.locator(".ag-row button").first.click()
    page.get_by_text("trial-23 rgb").first.wait_for()
    shot(page, "trials-table")


def test_parallel_coordinates_show_the_searched_settings(study: Home, address: str, page: "Page") -> None:
    store = Projector(study, "hand").store
    runs = [run.run_id for key, run in store.known.items() if key and run.status == "FINISHED"]
    listed = ",".join(f'"{run}"' for run in runs)
    page.goto(f'{address}/#/compare-runs?runs=[{listed}]&experiments=["{store.experiment}"]')
    page.get_by_text("Parallel Coordinates Plot").first.wait_for()
    page.wait_for_timeout(3000)
    shot(page, "parallel-coordinates")
    labels = " ".join(page.locator(".js-plotly-plot").first.locator("text").all_text_contents())
    assert "learning_rate" in labels


def test_the_overview_opens_from_the_parent_run(study: Home, address: str, page: "Page") -> None:
    projector = Projector(study, "hand")
    run, experiment = projector.parent_run_id(), projector.store.experiment
    page.goto(f"{address}/#/experiments/{experiment}/runs/{run}/artifacts/overview.html")
    frame = page.frame_locator("iframe").first
    frame.get_by_role("heading", name="Which settings matter").wait_for()
    page.wait_for_timeout(1000)
    shot(page, "overview-artifact")


def test_the_overview_stands_alone(study: Home, page: "Page") -> None:
    (path,) = study.artifacts.rglob("overview.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    for heading in ("Search", "Which settings matter", "Settings of each trial", "Learning curves", "Time"):
        assert page.get_by_role("heading", name=heading, exact=True).is_visible()
    assert page.locator("section svg").count() == 4
    shot(page, "overview", full=True)
    assert asked == [path.as_uri()]
