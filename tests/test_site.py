"The site builds without a warning, its links hold, and no page loads anything remote"
import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from execnb.nbio import mk_cell, read_nb
from fastcore.basics import AttrDict
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.showdoc import showdoc_nm

from replearn_nb.recipes.book import BOOK

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'docs'))  # the scripts that build the site

import cells  # noqa: E402
import results  # noqa: E402

cfg = get_config(path=root)
CHAPTERS = [c.name for c in BOOK]
REFERENCE = sorted(p.relative_to(root/'nbs').with_suffix('').as_posix()
                   for p in (root/'nbs').rglob('[!_.]*.ipynb')
                   if p.stem not in [*CHAPTERS, 'index'])


class Page(HTMLParser):
    "The ids, links, images and loaded files of a page"
    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.images, self.loads = set(), [], [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and a.get('href'):
            self.links.append(a['href'])
        if tag == 'img':
            self.images.append(a)
        rel = (a.get('rel') or '').split()
        if tag == 'link' and {'stylesheet', 'preload', 'icon'} & set(rel):
            self.loads.append(a['href'])
        if tag in ('script', 'img', 'iframe', 'source') and a.get('src'):
            self.loads.append(a['src'])


@pytest.fixture(scope='session')
def site(built_site):
    return {p: Page(p) for p in sorted(built_site.rglob('*.html'))
            if '_static' not in p.parts}  # a theme's templates


def test_every_notebook_has_its_page(site, built_site):
    for nb in (root/'nbs').rglob('[!_.]*.ipynb'):
        page = built_site/nb.relative_to(root/'nbs').with_suffix('.html')
        assert page in site, f'no page of {nb}'


def test_internal_links_and_anchors(site, built_site):
    wrong = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link.startswith(cfg.doc_host):
                    wrong.append((path.name, link, 'leaves the site'))
                continue
            to = path if not parts.path else (path.parent/unquote(parts.path)).resolve()
            to = to/'index.html' if to.is_dir() else to
            if not to.exists():
                wrong.append((path.name, link, 'no such page'))
            elif parts.fragment and to in site and (
                    unquote(parts.fragment) not in site[to].ids):
                wrong.append((path.name, link, 'no such anchor'))
    assert not wrong, '\n'.join(map(str, wrong))


def test_colab_and_repository_links_are_in_the_tree(site):
    seen = 0
    start = re.compile(r'(github\.com|colab\.research\.google\.com/github)'
                       rf'/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/([^#]+)')
    for page in site.values():
        for link in page.links:
            if m := start.search(link):
                assert (root/unquote(m[2])).exists(), link
                seen += 1
    assert seen > 2 * len(list((root/'nbs').rglob('[!_.]*.ipynb')))


def test_nothing_remote_is_loaded(site, built_site):
    for path, page in site.items():
        for load in page.loads:
            assert not urlsplit(load).netloc, f'{path.name} loads {load}'
            to = urljoin(path.as_uri(), load).split('?')[0].split('#')[0]
            assert load.startswith('data:') or Path(unquote(urlsplit(to).path)).exists()


def test_every_image_has_its_text(site):
    for path, page in site.items():
        for image in page.images:
            alt = (image.get('alt') or '').strip()
            assert len(alt) > 3 and not alt.startswith(('_images', '../_images')), (
                f'{path.name}: {image}')


@pytest.fixture(scope='session')
def soup(built_site):
    "A page by its name, e.g. `chapters/simclr`, parsed once"
    found = {}

    def get(name):
        if name not in found:
            text = (built_site/f'{name}.html').read_text(encoding='utf-8')
            found[name] = BeautifulSoup(text, 'html.parser')
        return found[name]
    return get


def code_on(page, folded=True) -> str:
    "All code on a page, or all that is not folded"
    pres = [p for p in page('pre') if folded or not p.find_parent('details')]
    return '\n'.join(p.get_text() for p in pres)


def exported_cells(name):
    nb = read_nb(root/'nbs'/f'{name}.ipynb')
    return [c for c in nb.cells if cells.is_exported(c)]


@pytest.mark.parametrize('name', CHAPTERS)
def test_a_chapter_page(soup, name):
    page = soup(f'chapters/{name}')
    text = page.get_text()
    for part in 'Open in Colab', 'Read first:', 'What you will learn':
        assert part in text, part
    assert page.find(rel='prev')
    assert page.find(rel='next')


@pytest.mark.parametrize('name', CHAPTERS)
def test_a_chapter_shows_its_code(soup, name):
    "Every exported line, as code; constants are open; no tables of parameters"
    page = soup(f'chapters/{name}')
    assert not page.select('.parameters')
    assert not page.find('summary', string=re.compile('Source'))
    every, is_open = code_on(page), code_on(page, folded=False)
    for c in exported_cells(f'chapters/{name}'):
        asked = cells.directives(c).get('code-fold') == 'true'
        for node, text in cells.statements(c.source):
            assert text in every, text
            if isinstance(node, ast.Assign | ast.AnnAssign) and not asked:
                assert text in is_open, f'folded: {text}'
    folds = [o.get_text(strip=True) for o in page.select('summary .collapsed')]
    if exported_cells(f'chapters/{name}'):
        assert 'Imports' in folds


def test_plumbing_is_folded():
    def folded(*sources):
        nb = AttrDict(cells=[mk_cell(s, 'markdown' if s[0] in '#T' and s[1] != '|'
                                     else 'code') for s in sources])
        cells.chapter_cells(nb)
        return [c.metadata.get('mystnb', {}).get('code_prompt_show', c.source)
                for c in nb.cells if c.cell_type == 'code']

    define = '#| export\ndef {}(): return 1'.format
    assert folded('#| export\nimport math', '#| export\nimport os') == ['Imports']
    assert folded(define('loss')) == ['def loss(): return 1']
    assert folded(define('plot_loss')) == ['Plumbing: plot_loss']
    assert folded(define('loss'), '## The recipe', define('loss'), '## Exercises',
                  define('loss')) == ['def loss(): return 1', 'Plumbing: loss',
                                      'def loss(): return 1']
    assert folded('#| export\n#| code-fold: true\ndef loss(): return 1') == [
        'Plumbing: loss']
    assert folded('#| export\n#| code-fold: false\ndef keep(): return 1') == [
        'def keep(): return 1']
    assert folded('## The recipe', '#| export\nEPOCHS = 3') == ['EPOCHS = 3']


@pytest.mark.parametrize('name', REFERENCE)
def test_a_reference_page_is_in_order_and_whole(soup, name):
    "Definitions come in the order of the notebook; constants are shown as code"
    page = soup(name)
    found = [s for c in exported_cells(name) for s in cells.statements(c.source)]
    defined = [showdoc_nm(node).split('.')[-1].lower() for node, _ in found
               if isinstance(node, cells.DEFINITION)
               and (node.name[0] != '_' or node.name[:2] == '__')]
    ids = [o['id'].removeprefix('def-') for o in page.select('[id^=def-]')]
    assert [i.split('.')[-1] for i in ids] == defined
    shown = code_on(page, folded=False)
    for node, text in found:
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(
                n[0] != '_' for n in cells.names(node)):
            assert text in shown, text


def test_no_box_is_empty(site, soup, built_site):
    for path in site:
        page = soup(path.relative_to(built_site).with_suffix('').as_posix())
        for box in page.select('.cell_output .output'):
            assert box.get_text(strip=True) or box.find(['img', 'svg']), (path, box)


def test_types_are_named_as_one_writes_them(site, soup, built_site):
    for path in site:
        page = soup(path.relative_to(built_site).with_suffix('').as_posix())
        for table in page.select('.parameters'):
            wrong = re.findall(r'__main__|torch\.|NoneType|replearn_nb\.', '\n'.join(
                row('td')[1].get_text() for row in table('tr')[1:]))
            assert not wrong, (path, wrong)


def test_a_comment_stands_in_the_row_of_its_parameter():
    def draw(
        x: inspect.Signature,  # what
        score=None,
        *args: int,  # more
        **style,  # for the lines
    ) -> int:  # how many
        pass
    rows = cells.table(docments(draw, full=True, args_kwargs=True)).splitlines()[2:]
    assert [re.sub(' +', ' ', r) for r in rows] == [
        '| `x` | `Signature` | | what |', '| `score` | | `None` | |',
        '| `*args` | `int` | | more |', '| `**style` | | | for the lines |',
        '| **Returns** | `int` | | how many |']


def rows_of(frame):
    soup = BeautifulSoup(cells.tidy_table(frame.to_html()), 'html.parser')
    return [[o.get_text() for o in row(['th', 'td'])] for row in soup('tr')]


def test_tables_are_tidy():
    frame = pd.DataFrame({'method': ['a', 'b'], 'score': [1, 2]})
    plain = [['method', 'score'], ['a', '1'], ['b', '2']]
    assert rows_of(frame) == plain  # without an index that only counts
    assert rows_of(frame.set_index('method')) == plain  # one row of headers
    assert rows_of(frame[1:]) == [['', 'method', 'score'], ['1', 'b', '2']]
    steps = frame.set_index('method').rename_axis(columns='step')
    assert rows_of(steps)[0] == ['step', 'score']  # both names are needed


def test_progress_bars_leave_nothing():
    def output(**data):
        return dict(output_type='display_data', data={k.replace('_', '/'): v
                                                      for k, v in data.items()})
    assert not cells.visible(output(text_html='<pre style="x"></pre>', text_plain=''))
    assert not cells.visible(dict(output_type='stream', text=['\n']))
    assert cells.visible(output(text_html='<b>1</b>', text_plain='1'))
    assert cells.visible(output(image_png='x', text_html=''))


def test_the_first_page_has_one_card_for_each_chapter(soup):
    page = soup('index')
    found = page.select('.chapter')
    assert len(found) == len(BOOK)
    for c, card in zip(BOOK, found, strict=True):
        assert c.title in card.get_text()
        assert c.summary in card.get_text()
        assert card.find('a', href=f'chapters/{c.name}.html')
    assert sum(bool(card.img) for card in found) >= 5
    assert not any(BOOK[0].summary in t.get_text() for t in page('table'))


def test_a_sentence_leads_from_chapter_to_chapter(soup):
    for a, b in zip(BOOK, BOOK[1:], strict=False):
        for name, side in (a.name, '.right-next'), (b.name, '.left-prev'):
            link, = soup(f'chapters/{name}').select(f'.prev-next-area {side}')
            assert a.onward in link.get_text()


def test_results_have_one_row_for_each_value_and_a_list_of_what_is_open(soup):
    page = soup('results')
    published = json.loads((root/'docs'/'published.json').read_text())
    measured = {p.name for p in (root/'docs'/'results').iterdir()}
    rows = [r for t in page.select('.stacked table') for r in t('tr')[1:]]
    assert len(rows) == sum(r['ours'][0] in measured for r in published)
    assert not any('not measured' in r.get_text() for r in rows)
    listed = page.find(id='open').get_text()
    for r in published:
        assert (r['what'] in listed) == (r['ours'][0] not in measured), r['what']
    report = json.loads((root/'docs'/'results'/'simclr-quick.json').read_text())
    value, between = report['headline']['labels_saved@10'].split(' ', 1)
    told = page.get_text().replace('\xa0', ' ')
    assert f'{value} times as many {between}' in told
    assert report['command'] in page.get_text()


def test_a_value_has_its_unit_and_its_interval():
    def told(*args, **kwargs):
        return results.told(*args, **kwargs).replace('\xa0', ' ')

    assert told(.97244, unit='percent') == '97.2%'
    assert told(.0679, .0177, .1182, 'points') == '+6.8 points (+1.8 to +11.8)'
    assert told('3.6 (2.8 to 4.2)', unit='times') == '3.6 times (2.8 to 4.2)'
    assert told('at most 1 (.5 to 2)', unit='s') == 'at most 1 s (.5 to 2)'
    assert told([3., 1., 2.], unit='s') == '2.0 s (1.0 to 3.0)'
    assert told(.0658, .05, .08) == '0.0658 (0.05 to 0.08)'


def test_the_winner_is_told_where_it_can_be():
    fast, slow = [5, 6, 7], [3, 4, 4.5]
    assert results.winner(fast, slow, dict(unit='images/s')) == 1
    assert results.winner(fast, slow, dict(unit='s')) == -1
    assert results.winner(fast, [4, 5.5], dict(unit='s')) == 0
    row = dict(unit='points', against='x', low='a', high='b')
    assert [results.winner(0, ends, row) for ends in ([1, 2], [-1, 2], [-2, -1])] == [
        1, 0, -1]
    row = dict(unit='times', against='x')
    for told, won in {'2 (1.5 to 3)': 1, '1.4 (1 to 2)': 0, '.6 (.5 to .7)': -1,
                      'more than 1': 0}.items():
        assert results.winner(told, None, row) == won


def test_results_notice_a_renamed_key():
    files = {'a.json': {'x': {'y': .12345}}}
    assert results.found(['a.json', 'x', 'y'], files) == .12345
    assert results.found(['b.json', 'x', 'y'], files) is None
    with pytest.raises(KeyError):
        results.found(['a.json', 'x', 'z'], files)


def test_a_warning_fails_the_build(tmp_path):
    "The build is strict: Sphinx's -W, on a page with a link that leads nowhere"
    (tmp_path/'index.md').write_text('# A page\n\n{doc}`nowhere`\n')
    for name in 'docs/conf.py', 'settings.ini':
        shutil.copy(root/name, tmp_path)
    shutil.copytree(root/'docs'/'static', tmp_path/'static')
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-q', '-W', '-b', 'html', tmp_path,
         tmp_path/'out'], capture_output=True, text=True, cwd=root)
    assert done.returncode and 'nowhere' in done.stderr
