"Every notebook runs, is clean, and matches the exported modules; so does the README"
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb

root = Path(__file__).resolve().parents[1]
cfg = get_config(path=root)
nbs = sorted(nbglob(cfg.nbs_path, as_path=True))
every_notebook = pytest.mark.parametrize(
    'nb', nbs, ids=[p.relative_to(cfg.nbs_path).as_posix() for p in nbs])


@every_notebook
def test_runs(nb, capfd, monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')  # set, and unset afterwards
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


def test_readme_matches(monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    spec = importlib.util.spec_from_file_location('readme', root/'docs'/'readme.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text, figures = module.readme(root)
    assert text == (root/'README.md').read_text(), 'run python docs/readme.py'
    for name, data in figures.items():
        assert (root/name).read_bytes() == data, 'run python docs/readme.py'
