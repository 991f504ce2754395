"Every notebook runs, is clean, and matches the exported modules; so does the README"
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from documents import script
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb

from replearn_nb import core
from replearn_nb.recipes import simclr
from replearn_nb.recipes.book import BOOK

root = Path(__file__).resolve().parents[1]
cfg = get_config(path=root)
nbs = sorted(nbglob(cfg.nbs_path, as_path=True))
every_notebook = pytest.mark.parametrize(
    'nb', nbs, ids=[p.relative_to(cfg.nbs_path).as_posix() for p in nbs])


@pytest.mark.parametrize('nb', [pytest.param(
    p, marks=pytest.mark.xdist_group(f'runs {p.stem}')) for p in nbs],
    ids=[p.relative_to(cfg.nbs_path).as_posix() for p in nbs])
def test_runs(nb, capfd, monkeypatch):
    "Every cell but claims, at the tiny size"
    monkeypatch.setenv('IN_TEST', '1')  # set, and unset afterwards
    monkeypatch.setenv('REPLEARN_PRESET', 'tiny')
    for registry in core.BUILDERS, core.Preprocessing.known:  # a page defines its own
        for name, known in list(registry.items()):
            monkeypatch.setitem(registry, name, known)
    matplotlib.use('agg')
    with torch.random.fork_rng(devices=[]):
        force = os.environ.get('NB_FLAGS', '').split()
        ok, _ = run_nb(nb, skip_flags=cfg.tst_flags.split(), force_flags=force,
                       basepath=root)
    matplotlib.pyplot.close('all')
    assert ok, capfd.readouterr().err


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    "A copy of the notebooks, exported and cleaned anew"
    d = tmp_path_factory.mktemp('fresh')
    shutil.copytree(cfg.nbs_path, d/'nbs')
    shutil.copy(root/'settings.ini', d)
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    for cmd in 'nbdev_export', 'nbdev_clean':
        program = Path(sys.executable).with_name(cmd)
        subprocess.run([program], cwd=d, env=env, check=True)
    return d


@every_notebook
def test_clean(nb, fresh):
    again = fresh/'nbs'/nb.relative_to(cfg.nbs_path)
    assert nb.read_text() == again.read_text(), f'run nbdev_clean --fname {nb}'


def test_modules_match(fresh):
    def read(d):
        files = (d/cfg.lib_path.name).rglob('*.py')
        return {str(p.relative_to(d)): p.read_text() for p in files}

    a, b = read(root), read(fresh)
    diff = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
    assert not diff, f'run nbdev_export; these differ: {diff}'


@every_notebook
def test_outputs_belong_to_the_code(nb):
    """Outputs were stored by docs/execute.py, and no code cell has changed since

    Where modules have changed that a notebook imports, the summary lists it."""
    assert script('execute').stale(nb) != 'its code', (
        f'run python docs/execute.py {nb.relative_to(root)}')


def test_fingerprint_is_of_the_code_alone():
    fingerprint = script('execute').fingerprint
    nb = json.loads(nbs[0].read_text())
    before = fingerprint(nb)
    markdown = next(c for c in nb['cells'] if c['cell_type'] == 'markdown')
    markdown['source'] = ['other words']
    assert fingerprint(nb) == before
    code = next(c for c in nb['cells'] if c['cell_type'] == 'code')
    code['source'] = [*code['source'], '\n1']
    assert fingerprint(nb) != before


def test_fingerprint_of_modules_follows_imports(tmp_path, monkeypatch):
    "Through modules and packages, past docstrings and comments, and no farther"
    execute = script('execute')
    monkeypatch.setattr(execute, 'root', tmp_path)
    (tmp_path/'replearn_nb'/'data').mkdir(parents=True)

    def write(name, text):
        (tmp_path/'replearn_nb'/f'{name}.py').write_text(text)

    write('a', 'def f():\n    "What it does"\n    return 1  # one\n')
    write('data/b', 'def g():\n    from .. import a\n    return a.f()\n')
    write('c', 'x = 1')
    nb = dict(cells=[dict(cell_type='code', source=[
        '%matplotlib inline\n', 'from replearn_nb.data import b'])])
    before = execute.modules_fingerprint(nb)
    write('a', '"A module"\n\n\ndef f():\n    return 1')
    write('c', 'x = 2')
    assert execute.modules_fingerprint(nb) == before
    write('a', 'def f():\n    return 2')
    assert execute.modules_fingerprint(nb) != before


CHAPTER_FILES = [p for p in nbs if p.parent.name == 'chapters' and p.stem != 'book']


@pytest.mark.claims
@pytest.mark.xdist_group('claims')  # one at a time: each may use all cores
@pytest.mark.parametrize('nb', CHAPTER_FILES, ids=lambda p: p.stem)
def test_claims(nb, pytestconfig, monkeypatch):
    "At full quick size with all assertions about numbers, stored outputs untouched"
    execute = script('execute')
    if pytestconfig.getoption('claims') != 'all' and not execute.stale(nb):
        pytest.skip('neither its code nor its modules changed since it was executed')
    for name in os.environ:
        if name == 'REPLEARN_PRESET' or name.endswith('_NUM_THREADS'):
            monkeypatch.delenv(name)
    execute.run(nb)


@every_notebook
def test_figures_have_their_text(nb):
    for c in json.loads(nb.read_text())['cells']:
        source = ''.join(c['source'])
        if any('image/png' in o.get('data', {}) for o in c.get('outputs', [])):
            alt = re.search(r'^#\| fig-alt: (.+)', source, re.M)
            assert alt and len(alt[1]) > 30, f'a figure without #| fig-alt: {source}'
        if c['cell_type'] == 'markdown':
            assert '![](' not in source, 'an image without alt text'


GUARD = """#| hide
# In Colab: install the package, and leave Colab's own torch as it is
from importlib.metadata import version
from importlib.util import find_spec
if find_spec('replearn_nb') is None:
    %pip install -q "replearn_nb @ git+https://github.com/replearn-nb/replearn-nb" \
torch=={version('torch').split('+')[0]}"""
MOLECULES = GUARD.replace("('replearn_nb')", "('rdkit')").replace(
    'replearn_nb @', 'replearn_nb[molecules] @')
ENTITIES = GUARD.replace("('replearn_nb')", "('seqeval')").replace(
    'replearn_nb @', 'replearn_nb[entities] @')
CHAPTERS = [c.name for c in BOOK if c.recipe]


@every_notebook
def test_opens_in_colab(nb):
    "The first code but `default_exp` installs what is missing; nothing needs nbdev"
    if nb.name == 'index.ipynb':
        return
    code = [''.join(c['source']) for c in json.loads(nb.read_text())['cells']
            if c['cell_type'] == 'code']
    first = [c for c in code if not c.startswith('#| default_exp')][0]
    assert first in (GUARD, MOLECULES, ENTITIES)
    assert not any(re.search(r'^(from|import) nbdev', c, re.M) for c in code)


@pytest.mark.parametrize('name', CHAPTERS)
def test_chapter(name):
    "Says what it runs, does so at full size with a GPU alone, ends with exercises"
    nb = json.loads((root/'nbs'/'chapters'/f'{name}.ipynb').read_text())
    text = [''.join(c['source']) for c in nb['cells']]
    chapter = next(c for c in BOOK if c.name == name)
    assert text[0].startswith(f'# {chapter.title}\n')
    assert any(f"size, full = choose_preset('{name}')" in t for t in text)
    full = [t for t in text if re.search(r"(?<!def )\brun\('full'", t)]
    assert full and all(t.startswith('if full: ') for t in full)
    exercises = '\n'.join(text).split('## Exercises')[1]
    assert 3 <= len(re.findall(r'^\*\*\d\.\*\*', exercises, re.M)) <= 5
    solutions = [c for c in nb['cells'] if 'hide-cell' in c['metadata'].get('tags', [])]
    assert len(solutions) >= 3
    for c in solutions:
        assert c['cell_type'] == 'code' and c['outputs']
        assert 'eval: false' not in ''.join(c['source'])
    ran = nb['metadata']['executed']['seconds']
    assert ran <= 400 and ran / 60 / 2 < chapter.minutes < ran / 60 * 2


def test_readme_matches(monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    text, figures = script('readme').readme(root)
    assert text == (root/'README.md').read_text(), 'run python docs/readme.py'
    for name, data in figures.items():
        assert (root/name).read_bytes() == data, 'run python docs/readme.py'


def readme_examples():
    text = (root/'README.md').read_text()
    return re.findall(r'```python\n(.*?)```', text, re.S)


def test_readme_example_runs(tmp_path, monkeypatch):
    "The ten lines, as they stand, after a pre-training of two epochs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(simclr.PRESETS, 'quick', simclr.PRESETS['tiny'])
    first = readme_examples()[0]
    *lines, last = first.strip().splitlines()
    names = {}
    exec('\n'.join(lines), names)
    assert .3 < eval(last, names) <= 1  # guessing: .1
    assert (tmp_path/'runs'/'first'/'report.json').exists()


def test_readme_example_for_vectors_runs():
    "The other example, with the vectors and labels that it presupposes"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y, y_test = torch.arange(120) % 2, torch.arange(60) % 2
        tfidf, vectors = (tuple(
            torch.randn(len(t), 5) + torch.outer(t * gap, torch.ones(5))
            for t in (y, y_test)) for gap in (.5, 2.))
    names = dict(y=y, y_test=y_test, tfidf=tfidf, vectors=vectors, n_classes=2)
    exec(readme_examples()[1], names)
    matplotlib.pyplot.close('all')
    mean = names['df'].groupby('method').score.mean()
    assert mean['ours+linear'] > mean['tfidf+linear'] > .5
