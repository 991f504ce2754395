"""The site in a real browser; skipped where there is no chromium

    pip install -e '.[dev,browser]'   # and a chromium: apt-get install chromium
    pytest tests/test_browser.py      # screenshots are written to _site_shots/
"""
import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

from replearn_nb.recipes.book import BOOK

chromium = os.environ.get('CHROMIUM') or shutil.which('chromium')
if not chromium:
    pytest.skip('no chromium: apt-get install chromium', allow_module_level=True)
sync_api = pytest.importorskip(
    'playwright.sync_api', reason="no playwright: pip install -e '.[browser]'")
axe = pytest.importorskip(
    'axe_playwright_python.sync_playwright', reason="pip install -e '.[browser]'")

root = Path(__file__).resolve().parents[1]
shots = root/'_site_shots'
WIDTHS = dict(phone=390, tablet=820, desktop=1440)
PAGES = sorted(p.relative_to(root/'nbs').with_suffix('.html').as_posix()
               for p in (root/'nbs').rglob('[!_.]*.ipynb'))
PAGES += ['results.html', 'genindex.html', 'search.html']
every_page = pytest.mark.parametrize('page', PAGES)
every_chapter = pytest.mark.parametrize('page', [
    'index.html', *(f'chapters/{c.name}.html' for c in BOOK)])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope='session')
def address(built_site):
    handler = functools.partial(Quiet, directory=built_site)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


@pytest.fixture(scope='session')
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=[
            '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
            '--disable-background-networking', '--disable-component-update',
            '--disable-sync'])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address):
    "A page of the browser, with a list of what went wrong on it"
    context = browser.new_context(base_url=address)
    tab = context.new_page()
    tab.troubles = []
    tab.on('console', lambda m: m.type in ('error', 'warning')
           and tab.troubles.append(f'console: {m.text}'))
    tab.on('pageerror', lambda e: tab.troubles.append(f'error: {e}'))
    tab.on('requestfailed', lambda r: tab.troubles.append(f'failed: {r.url}'))
    tab.on('response', lambda r: r.status >= 400
           and tab.troubles.append(f'{r.status}: {r.url}'))
    tab.on('request', lambda r: r.url.startswith((address, 'data:', 'blob:'))
           or tab.troubles.append(f'remote: {r.url}'))
    yield tab
    context.close()


def shoot(tab, page, kind):
    shots.mkdir(exist_ok=True)
    name = page.replace('/', '-').removesuffix('.html')
    tab.screenshot(path=shots/f'{name}-{kind}.png')


def violations(tab, rules):
    "What axe finds against WCAG, with everything unfolded"
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.evaluate('document.getAnimations().forEach(a => a.finish())')  # fading in
    found = axe.Axe().run(tab, options={'runOnly': rules})
    return found.generate_report() if found.violations_count else ''


@every_page
def test_opens(tab, page):
    tab.goto(page, wait_until='networkidle')
    shoot(tab, page, 'light')
    assert not tab.troubles, tab.troubles
    assert tab.locator('h1:visible').count() == 1 and 'replearn_nb' in tab.title()
    said = violations(tab, ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'])
    assert not said, said


@every_page
def test_dark(tab, page):
    tab.add_init_script("localStorage.setItem('mode', 'dark');"
                        "localStorage.setItem('theme', 'dark')")
    tab.goto(page)
    assert tab.locator('html[data-theme=dark]').count() == 1
    shoot(tab, page, 'dark')
    said = violations(tab, ['color-contrast'])
    assert not said, said


@every_page
@pytest.mark.parametrize('kind', ['phone', 'tablet'])
def test_fits(tab, page, kind):
    tab.set_viewport_size(dict(width=WIDTHS[kind], height=900))
    tab.goto(page)
    shoot(tab, page, kind)
    assert tab.evaluate('document.documentElement.scrollWidth') <= WIDTHS[kind]


@pytest.mark.parametrize('kind', ['tablet', 'desktop'])
@every_chapter
def test_no_code_is_clipped(tab, page, kind):
    "Folded code included; on a phone code scrolls"
    tab.set_viewport_size(dict(width=WIDTHS[kind], height=900))
    tab.goto(page)
    clipped = tab.evaluate("""() => {
        document.querySelectorAll('details').forEach(d => d.open = true);
        return [...document.querySelectorAll('article pre')]
            .filter(p => p.scrollWidth > p.clientWidth + 1)
            .map(p => p.innerText.slice(0, 200))}""")
    assert not clipped, clipped


@pytest.mark.parametrize('page', ['pretext/simclr.html', 'results.html'])
def test_a_table_is_a_list_on_a_phone(tab, page):
    tab.set_viewport_size(dict(width=WIDTHS['phone'], height=900))
    tab.goto(page)
    ends = tab.evaluate("""[...document.querySelectorAll(
        ':is(.parameters, .stacked) td')].map(d => d.getBoundingClientRect().right)""")
    assert ends and max(ends) <= WIDTHS['phone']


@pytest.mark.parametrize('kind', WIDTHS)
def test_cards_leave_no_hole(tab, kind):
    "All as wide as the text, with figures large enough to be read"
    tab.set_viewport_size(dict(width=WIDTHS[kind], height=900))
    tab.goto('index.html', wait_until='networkidle')
    def widths(of): return tab.evaluate(
        f"[...document.querySelectorAll('{of}')].map(d => d.offsetWidth)")
    cards = widths('.chapter')
    assert len(set(cards)) == 1
    assert cards[0] > .8 * widths('article')[0]
    assert min(widths('.chapter img')) > 280


def test_mode_switch(tab):
    tab.goto('index.html', wait_until='networkidle')
    def theme(): return tab.evaluate("document.documentElement.dataset.theme")
    def paper(): return tab.evaluate("getComputedStyle(document.body).backgroundColor")
    papers = {}
    for mode in 'dark', 'light':
        tab.locator('.theme-switch-button:visible').click()
        tab.locator(f'.theme-change-button[data-mode={mode}]:visible').click()
        assert theme() == mode
        papers[mode] = paper()
    assert papers['dark'] != papers['light']
    tab.locator('.theme-switch-button:visible').click()
    tab.locator('.theme-change-button[data-mode=dark]:visible').click()
    tab.goto('results.html')  # and it stays
    assert theme() == 'dark' and paper() == papers['dark']


@pytest.mark.parametrize('name, page', [
    ('nt_xent', 'pretext/simclr.html'), ('labels_saved', 'transfer/labels.html')])
def test_search_by_keyboard(tab, name, page):
    "Ctrl+K reaches the search; the first hit is the page that defines the name"
    tab.goto('index.html', wait_until='networkidle')
    tab.keyboard.press('Control+k')
    assert tab.evaluate("document.activeElement.matches('input[type=search]')")
    tab.keyboard.type(name)
    tab.keyboard.press('Enter')
    hit = tab.locator('#search-results ul.search li a').first
    hit.wait_for()
    assert re.search(rf'{page}(#|\?|$)', hit.get_attribute('href'))
    hit.click()
    tab.wait_for_url(re.compile(re.escape(page)))
    assert tab.get_by_text(name).count()
    assert not tab.troubles, tab.troubles


def test_tab_reaches_the_search(tab):
    tab.goto('index.html', wait_until='networkidle')
    for _ in range(12):
        tab.keyboard.press('Tab')
        if tab.evaluate(
                "document.activeElement.matches("
                "'.search-button, .search-button__button, input[type=search]')"):
            return
    raise AssertionError('twelve tabs did not reach the search')


@pytest.mark.parametrize('page, what', [
    ('pretext/simclr.html', 'def nt_xent'), ('chapters/simclr.html', 'def run')])
def test_folded_code_unfolds(tab, page, what):
    tab.goto(page, wait_until='networkidle')
    fold = tab.locator(f'details:has-text("{what}")').first
    assert not fold.locator('pre').first.is_visible()
    assert fold.locator('summary').bounding_box()['height'] < 70
    fold.locator('summary').first.click()
    assert fold.locator('pre').first.is_visible()
