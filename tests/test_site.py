"The site builds without a warning, its links hold, and no page loads anything remote"
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from documents import script
from nbdev.config import get_config

root = Path(__file__).resolve().parents[1]
cfg = get_config(path=root)


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


@pytest.mark.parametrize('name', ['labels', 'simclr'])
def test_a_chapter_page(site, built_site, name):
    html = (built_site/'chapters'/f'{name}.html').read_text(encoding='utf-8')
    for part in 'Open in Colab', 'Takes:', 'Read first:', 'Source', 'Exercises':
        assert part in html, part
    assert 'rel="prev"' in html and 'rel="next"' in html


def test_results_page_says_what_is_missing(built_site):
    html = (built_site/'results.html').read_text(encoding='utf-8')
    published = json.loads((root/'docs'/'published.json').read_text())
    measured = {p.name for p in (root/'docs'/'results').iterdir()}
    missing = [r for r in published if r['ours'][0] not in measured]
    assert html.count('not measured yet') >= len(missing)
    report = json.loads((root/'docs'/'results'/'simclr-quick.json').read_text())
    assert report['headline']['labels_saved@10'] in html
    assert report['command'] in re.sub('<[^>]+>', '', html)


def test_results_names_what_no_file_says():
    results = script('results')
    files = {'a.json': {'x': {'y': .12345}}}
    assert results.found(['a.json', 'x', 'y'], files) == '0.1235'
    assert results.found(['b.json', 'x', 'y'], files) == results.MISSING
    assert results.found(None, files) == results.NONE
    with pytest.raises(KeyError):  # a renamed key is noticed
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
