"""The page in a real browser: no axe violation, nothing asked of anyone, whole on a phone and on paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from harness.evidence.page import decision_html
from harness.evidence.policy import parse_policy
from harness.history.night import conclude
from harness.history.publish import publish_night
from harness.record.gates import Outcome
from harness.record.run import RunRecord
from harness.report.page import report_html
from harness.store import open_store
from harness.store.nights import Nights
from tests.harness.history.made_nights import latency, make_night, make_plan_file
from tests.harness.report import made_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MAKERS: dict[str, Callable[[RunRecord], RunRecord]] = {
    "full": made_runs.full_run,
    "swept": made_runs.swept_run,
    "many": made_runs.many_run,
    "failed": made_runs.failed_run,
    "empty": made_runs.empty_run,
}
#: A4 in points, by ISO 216: 210 x 297 mm.
A4_PT = (595.3, 841.9)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is in PATH")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def pages(run_record: RunRecord, hostile_record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    records = {name: make(run_record) for name, make in MAKERS.items()} | {"hostile": hostile_record}
    made = {}
    for name, record in records.items():
        path = folder / f"{name}.html"
        path.write_text(report_html(record), encoding="utf-8")
        made[name] = path.as_uri()
    return made


@pytest.mark.parametrize(("name", "scheme", "width"), [
    ("full", "light", 1280), ("full", "dark", 400), ("swept", "dark", 1280), ("many", "light", 1280),
    ("failed", "light", 400), ("empty", "dark", 1280), ("hostile", "light", 1280),
])  # fmt: skip
def test_axe_finds_nothing(
    browser: Browser, pages: dict[str, str], name: str, scheme: Literal["light", "dark"], width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name])
    assert asked == [pages[name]]
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    # A page forbids scripts; this one is the browser's own hand, not the page's.
    found = axe.Axe().run(page)
    page.close()
    told = [(one["id"], [node["target"] for node in one["nodes"][:3]]) for one in found.response["violations"]]
    assert told == []
    assert "color-contrast" in {one["id"] for one in found.response["passes"]}


@pytest.mark.parametrize("name", ["full", "swept", "many"])
def test_it_prints_on_a4_with_every_target_and_no_row_cut(
    browser: Browser, pages: dict[str, str], name: str, run_record: RunRecord, tmp_path: Path
) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler) is not installed")
    pdf = tmp_path / "report.pdf"
    page = browser.new_page()
    page.goto(pages[name])
    page.pdf(path=str(pdf), prefer_css_page_size=True)
    page.close()

    def poppler(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    size = re.search(r"Page size:\s+([\d.]+) x ([\d.]+)", poppler("pdfinfo", str(pdf)))
    assert size is not None
    assert (float(size[1]), float(size[2])) == pytest.approx(A4_PT, abs=1)
    boxes = poppler("pdftotext", "-bbox", str(pdf), "-")
    right = max(float(x) for x in re.findall(r'xMax="([\d.]+)"', boxes))
    assert right <= A4_PT[0] - 28  # inside the margin: no column is cut off
    # what a reader must see first is on the first sheet; what is folded on a screen is on paper
    first = poppler("pdftotext", "-l", "1", "-layout", str(pdf), "-")
    record = MAKERS[name](run_record)
    verdict = "FAIL" if record.gates else "No verdict"
    assert verdict in first
    everything = re.sub(r"\s+", "", poppler("pdftotext", str(pdf), "-"))
    for number, target in enumerate(record.targets):
        section = re.sub(r"\s+", "", f"{target.name}{target.board}, {target.environment}rules,reachedvia")
        assert section in everything, number
    shipped = record.targets[-1].shipments[0].digest
    assert everything.count(shipped) >= 2


def test_on_paper_no_heading_stands_without_what_it_announces(
    browser: Browser, run_record: RunRecord, tmp_path: Path
) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext (poppler) is not installed")
    full, pdf = made_runs.full_run(run_record), tmp_path / "report.pdf"
    page = browser.new_page()
    for count in (22, 26, 28):  # rows above the comparison: it is pushed down the first sheet and over its foot
        gates = tuple(made_runs.gate("this-machine", f"gate_{i}", Outcome.FAIL) for i in range(count))
        path = tmp_path / f"{count}.html"
        path.write_text(report_html(replace(full, gates=gates)), encoding="utf-8")
        page.goto(path.as_uri())
        page.pdf(path=str(pdf), prefer_css_page_size=True)
        told = subprocess.run(["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True)
        sheets = [[line.strip() for line in sheet.splitlines() if line.strip()] for sheet in told.stdout.split("\f")]
        headings = set(page.locator("h2, h3, h4, caption").all_inner_texts())
        assert [sheet[-1] for sheet in sheets if sheet and sheet[-1] in headings] == []
        (with_heading,) = (sheet for sheet in sheets if "Comparison" in sheet)
        assert any(line.startswith("Difference: Quantized minus") for line in with_heading), count
    page.close()


def test_the_decision_page_of_a_release_is_as_good(browser: Browser, run_record: RunRecord, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    policy = parse_policy("name: camera-2-1\njobs: [digits.yaml]\n", tmp_path / "policy.yaml")
    records = [made_runs.full_run(run_record), made_runs.swept_run(run_record)]
    path = tmp_path / "decision.html"
    path.write_text(decision_html(policy, records, "2026-07-14T10:15:00+00:00", "ab" * 32), encoding="utf-8")
    schemes: tuple[tuple[int, Literal["light", "dark"]], ...] = ((1280, "light"), (400, "dark"))
    for width, scheme in schemes:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [one["id"] for one in axe.Axe().run(page).response["violations"]] == []
        page.close()


def test_the_page_of_a_night_is_as_good(browser: Browser, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    store = open_store(str(tmp_path / "store.db"))
    plan = make_plan_file(tmp_path / "plan")
    for number in range(16):  # a runtime changes on the eighth night, the network on the fourteenth
        around = {"runtime.onnxruntime": f"1.{22 + (number >= 8)}.0", "code.int8 network": "ab"[number >= 14] * 64}
        slower = 1.06 ** (number >= 8) * 1.1 ** (number >= 14) * (1 + 0.004 * (number % 2))
        rows = {"digits": [latency("pi5", 3.2 * slower, 0.005)]}
        night = make_night(store, number, rows, {"pi5": around}.__getitem__)
    gate = {"target": "pi5", "gate": "speedup", "outcome": "fail", "claim": "c", "evidence": "e", "detail": ""}
    night.details["entries"][0]["gates"] = [gate, gate | {"gate": "energy", "outcome": "inconclusive"}]
    tonight = conclude(plan, Nights(store), night)
    publish_night(plan, Nights(store), tonight)
    store.close()
    content = (tonight.folder / "index.html").read_text()
    for heading in ("Gates that did not pass", "Table of machines", "Series with a step"):  # every part is there
        assert heading in content
    schemes: tuple[tuple[int, Literal["light", "dark"]], ...] = ((1280, "light"), (400, "dark"))
    for path in (tonight.folder / "index.html", plan.out / "index.html"):
        for width, scheme in schemes:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert [one["id"] for one in axe.Axe().run(page).response["violations"]] == []
            page.close()
