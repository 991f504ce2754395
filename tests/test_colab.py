"""Chapters as Colab runs them; asked for by name, since it installs torch anew

    REPLEARN_COLAB=1 pytest tests/test_colab.py -s     # about ten minutes

A fresh environment that has torch and Jupyter's kernel, no repository, no pins: the
first cell of the first chapter installs the wheel, with the newest fastai.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replearn_nb.recipes.book import BOOK

root = Path(__file__).resolve().parents[1]
if not os.environ.get('REPLEARN_COLAB'):
    pytest.skip('takes ten minutes: REPLEARN_COLAB=1', allow_module_level=True)

NOTEBOOKS = [f'chapters/{c.name}' for c in BOOK] + ['contributing/new_pretext_task']


def sh(*args, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True,
                          **kwargs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def colab(tmp_path_factory):
    "(folder, python, environment) of a machine that has torch and a kernel"
    d = tmp_path_factory.mktemp('colab')
    source = d/'source'
    shutil.copytree(root, source, ignore=shutil.ignore_patterns(
        '.git', '_proc', '_site*', 'runs', 'dist', 'build', '*.egg-info', '.venv*'))
    sh(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', d/'wheels',
       source)
    shutil.rmtree(source)
    sh(sys.executable, '-m', 'venv', d/'venv')
    python = d/'venv'/'bin'/'python'
    sh(python, '-m', 'pip', 'install', '-q', 'torch', 'ipykernel', 'nbclient')
    drop = {'PYTHONPATH', 'REPLEARN_DATA', 'IN_TEST', 'VIRTUAL_ENV'}
    env = {k: v for k, v in os.environ.items() if k not in drop}
    env |= dict(PIP_FIND_LINKS=str(d/'wheels'), MPLBACKEND='agg',
                PATH=f"{d/'venv'/'bin'}:{os.environ['PATH']}")
    return d, python, env


def torch_version(colab):
    d, python, env = colab
    return sh(python, '-c', 'import importlib.metadata as m; print(m.version("torch"))',
              cwd=d, env=env).strip()


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_runs_top_to_bottom(colab, name):
    d, python, env = colab
    before = torch_version(colab)
    nb = d/f'{Path(name).name}.ipynb'
    text = (root/'nbs'/f'{name}.ipynb').read_text()  # the wheel in place of the address
    nb.write_text(text.replace(' @ git+https://github.com/replearn-nb/replearn-nb', ''))
    sh(python, '-m', 'jupyter', 'execute', '--kernel_name=python3', '--timeout=900',
       '--inplace', nb, cwd=d, env=env)
    cells = json.loads(nb.read_text())['cells']
    code = [c for c in cells if c['cell_type'] == 'code']
    assert all(c['execution_count'] for c in code if c['source'])
    if name.startswith('chapters'):
        text = json.dumps(code)
        assert 'This chapter runs its quick preset' in text
    assert torch_version(colab) == before


def test_it_was_the_wheel_and_the_newest_fastai(colab):
    d, python, env = colab
    where = sh(python, '-c', 'import replearn_nb; print(replearn_nb.__file__)',
               cwd=d, env=env)
    assert 'site-packages' in where
    listed = sh(python, '-m', 'pip', 'list', '--format=json', cwd=d, env=env)
    versions = {p['name'].lower(): p['version'] for p in json.loads(listed)}
    assert 'nbdev' not in versions
    newest = sh(python, '-m', 'pip', 'list', '--outdated', '--format=json', cwd=d,
                env=env)
    assert 'fastai' not in {p['name'] for p in json.loads(newest)}, versions['fastai']
