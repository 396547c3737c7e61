"""The report in a real browser, without a network: it opens fast, asks for nothing, leads everywhere, and fits."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import report_helpers as made

from snapdyn.report_scorecard import slug

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Nothing is asked of the network, not even by the browser for itself.
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--no-sandbox"]
OPENS_WITHIN = 2.0  # seconds
LARGEST = 15e6  # bytes
DESKTOP, PHONE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}, {"width": 360, "height": 640}

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium to look at the report with: install your distribution's package of that name"
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Name -> report: made up here, and the one that SNAPDYN_TEST_REPORT names."""
    paper, own = made.paper_run(tmp_path_factory.mktemp("paper")), made.own_run(tmp_path_factory.mktemp("own"))
    made.page_of(paper)
    made.page_of(own, made.MINE)
    found = {"paper": paper / "report.html", "own": own / "report.html"}
    if given := os.environ.get("SNAPDYN_TEST_REPORT"):
        found["given"] = Path(given).resolve(strict=True)
    return found


NAMES = ["paper", "own"] + ["given"] * ("SNAPDYN_TEST_REPORT" in os.environ)


@pytest.fixture(params=NAMES)
def path(request, reports):
    return reports[request.param]


class Visit:
    """One opened page, and everything that it asked for or complained about."""

    def __init__(self, browser, path, viewport=DESKTOP, **options):
        self.path = path
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def all(self, script):
        return self.page.evaluate(script)


def shoot(visit, name):
    """Keep a picture for those who want to look: SNAPDYN_TEST_SCREENSHOTS names a folder."""
    if folder := os.environ.get("SNAPDYN_TEST_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        visit.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_it_opens_fast_asks_for_nothing_and_does_not_complain(browser, path):
    assert path.stat().st_size < LARGEST
    with Visit(browser, path) as visit:
        taken = visit.all("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
        assert 0 < taken < OPENS_WITHIN
        visit.all("document.querySelectorAll('details').forEach(box => { box.open = true })")
        visit.all("document.querySelectorAll('img').forEach(picture => { picture.loading = 'eager' })")
        visit.page.keyboard.press("End")
        visit.page.wait_for_timeout(200)
        asked = [url for url in visit.requests if not url.startswith("data:")]
        assert asked == [path.as_uri()] and visit.complaints == []
        broken = visit.all("[...document.images].filter(i => i.alt && !i.naturalWidth).map(i => i.alt)")
        assert broken == []
        shoot(visit, f"{path.parent.name}-end")


def test_a_page_that_asks_or_complains_is_caught(browser, tmp_path):
    text = '<!doctype html><title>x</title><img src="absent.png" alt="x"><script>console.error("ow"); nosuch()</script>'
    (tmp_path / "bad.html").write_text(text)
    with Visit(browser, tmp_path / "bad.html") as visit:
        assert any("absent.png" in url for url in visit.requests)
        assert "ow" in visit.complaints and any("nosuch" in said for said in visit.complaints)


def test_every_link_leads_somewhere(browser, path):
    with Visit(browser, path) as visit:
        links = visit.all("[...document.links].map(a => a.href)")
        ids = set(visit.all("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        assert len(links) > 20
        for link in links:
            parts = urlparse(link)
            if parts.scheme == "data":
                continue
            assert parts.scheme == "file", link
            target = Path(unquote(parts.path))
            assert target.is_file(), link
            if target == path:
                assert unquote(parts.fragment) in ids, link


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
def test_nothing_is_wider_than_the_screen(browser, path, viewport):
    with Visit(browser, path, viewport) as visit:
        for unfold in ("", "document.querySelectorAll('details').forEach(box => { box.open = true })"):
            visit.all(unfold or "0")
            wide, shown = visit.all("[document.documentElement.scrollWidth, window.innerWidth]")
            assert wide <= shown == viewport["width"]
        visit.all("document.querySelectorAll('dialog, script').forEach(e => e.remove())")
        shoot(visit, f"{path.parent.name}-{viewport['width']}")


def test_the_page_has_landmarks_names_and_headings_in_order(browser, path):
    with Visit(browser, path) as visit:
        for landmark in ("header", "nav", "main", "footer", "h1"):
            assert visit.page.locator(landmark).count() == 1, landmark
        levels = visit.all("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])")
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
        assert visit.all("[...document.images].filter(i => !i.closest('dialog') && !i.alt).length") == 0
        assert visit.all("[...document.querySelectorAll('input,select')].filter(i => !i.labels.length).length") == 0
        nameless = "[...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope]')).length"
        assert visit.all(nameless) == 0
        assert visit.all("document.documentElement.lang") == "en" and visit.page.title()


def test_the_keyboard_reaches_the_content_first(browser, reports):
    with Visit(browser, reports["paper"]) as visit:
        visit.page.keyboard.press("Tab")
        assert visit.all("document.activeElement.className") == "skip"
        visit.page.keyboard.press("Enter")
        assert visit.all("document.activeElement.id") == "main"


def test_only_what_scrolls_is_a_stop_of_the_keyboard(browser, reports):
    boxes = "[...document.querySelectorAll('.scroll')].filter(box => !box.closest('details:not([open])'))"
    for viewport, stops in ((DESKTOP, -1), (NARROW, 0)):
        with Visit(browser, reports["paper"], viewport) as visit:
            visit.page.wait_for_timeout(100)
            found = visit.all(f"{boxes}.map(box => [box.scrollWidth > box.clientWidth, box.tabIndex])")
            assert all(stop == (0 if scrolls else -1) for scrolls, stop in found)
            assert stops in [stop for _, stop in found]


def shown_claims(visit):
    return visit.all(
        "[...document.querySelectorAll('.claims tbody tr')].filter(r => r.offsetParent).map(r => r.dataset.verdict)"
    )


def test_claims_are_filtered_by_verdict_and_by_word(browser, reports):
    with Visit(browser, reports["paper"]) as visit:
        everything = list(made.claims()["verdict"])
        assert shown_claims(visit) == everything
        visit.page.locator("button[data-verdict=reproduced]").click()
        assert shown_claims(visit) == ["reproduced"] * everything.count("reproduced")
        visit.page.locator("button[data-verdict=short]").press("Enter")
        assert sorted(shown_claims(visit)) == ["reproduced"] * everything.count("reproduced") + ["short"]
        visit.page.locator("input[type=search]").fill("FIG2 asked")
        assert shown_claims(visit) == ["short"]
        assert visit.page.locator("output").text_content() == f"1 of {len(everything)} shown"
        visit.all(f"location.hash = '{slug('claim', 'won')}'")  # hidden: a link to it shows all again
        visit.page.wait_for_timeout(50)
        assert shown_claims(visit) == everything


def test_a_link_opens_what_is_folded(browser, reports):
    with Visit(browser, reports["paper"]) as visit:
        folded = visit.page.locator("#eq-sde")
        assert folded.get_attribute("open") is None
        visit.all("location.hash = 'eq-sde'")
        visit.page.wait_for_timeout(50)
        assert folded.get_attribute("open") is not None
        height = visit.all("document.querySelector('#eq-sde math').getBoundingClientRect().height")
        assert height > 15  # it is drawn, not spelled out


def test_formulas_are_drawn_in_two_dimensions(browser, reports):
    with Visit(browser, reports["paper"]) as visit:
        visit.all("document.querySelectorAll('details').forEach(box => { box.open = true })")
        above = visit.all(
            "(() => { const f = document.querySelector('#eq-l1-loss mfrac'), [a, b] = [...f.children].map(e => "
            "e.getBoundingClientRect()); return a.bottom <= b.top + 1 && a.height > 0 })()"
        )
        assert above is True


def test_pictures_open_at_their_own_size_and_close(browser, reports):
    with Visit(browser, reports["paper"]) as visit:
        visit.page.locator(".zoom").first.click()
        assert (
            visit.all("document.querySelector('dialog').open && document.querySelector('dialog img').naturalWidth")
            == 40
        )
        visit.page.keyboard.press("Escape")
        assert visit.all("document.querySelector('dialog').open") is False


def test_it_is_dark_where_that_is_asked_and_prints_without_its_controls(browser, reports):
    with Visit(browser, reports["paper"], color_scheme="dark") as visit:
        ground, ink = visit.all("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        dark, light = (sum(map(int, re.findall(r"\d+", colour))) for colour in (ground, ink))
        assert dark < 150 < 600 < light
        shoot(visit, "dark")
        visit.page.emulate_media(media="print")
        assert not visit.page.locator("nav").is_visible() and not visit.page.locator(".filters").is_visible()
        assert visit.page.pdf().startswith(b"%PDF")


def test_without_script_everything_is_there(browser, reports):
    with Visit(browser, reports["paper"], java_script_enabled=False) as visit:
        assert visit.page.locator(".claims tbody tr").count() == len(made.claims())
        assert visit.page.locator(".claims tbody tr").first.is_visible()
        assert visit.page.locator("nav a").first.is_visible()
