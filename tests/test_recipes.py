"One contract for every recipe of the book, at its tiny size"
import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from importlib import import_module
from typing import get_args, get_origin

import pandas as pd
import pytest
import torch
from processes import ENV, TORCHRUN, torchrun
from safetensors.torch import load_file

from replearn_nb.core import ReplearnError
from replearn_nb.pretext import base
from replearn_nb.recipes.book import BOOK
from replearn_nb.representation import Representation
from replearn_nb.transfer import labels
from replearn_nb.transfer.report import SCORE, Report

NAMES = [c.name for c in BOOK if c.recipe]
LEARN = [name for name in NAMES
         if import_module(f'replearn_nb.recipes.{name}').experiment.learn]


def parametrize(name, values):
    "One process tests all of a recipe, since the tests share a run of it"
    return pytest.mark.parametrize(name, [pytest.param(
        v, marks=pytest.mark.xdist_group(f'recipe {getattr(v, "name", v)}'),
        id=getattr(v, 'name', v)) for v in values])


every_recipe = parametrize('name', NAMES)
every_training = parametrize('name', LEARN)


def recipe(name):
    return import_module(f'replearn_nb.recipes.{name}')


def refused(fn, *args, **kwargs):
    with pytest.raises(ReplearnError) as e:
        fn(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The folder of a tiny run that was not interrupted, by name"
    found = {}

    def run(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp('whole')/name
            recipe(name).run('tiny', out=found[name], device='cpu', seeds=2)
        return found[name]
    return run


@every_recipe
def test_a_run_leaves_a_report_and_what_it_learned(name, whole):
    folder, it = whole(name), recipe(name).experiment
    report = Report.load(folder)
    assert (report.recipe, report.preset, report.seed) == (name, 'tiny', 0)
    assert report.scores and list(report.table) == list(SCORE)
    assert report.table.score.between(-1e6, 1e6).all()
    assert report.headline and not report.method or report.method in set(
        report.table.method)
    assert not report.table.pretrained.all(), 'nothing to compare with'
    assert set(report.seconds) == {'pretrain', 'transfer', 'total'}
    left = {p.name for p in folder.iterdir()}
    assert {'report.json', 'figure.png'} <= left
    assert not left & {'kept', 'run.json', 'running'}
    if it.learn:
        rep = Representation.load(folder/'representation')
        assert rep.card['scores'] == report.headline
        assert (folder/'others').exists()  # of the second pre-training
        trained = report.table[report.table.pretrained]
        assert trained.groupby('method').pretraining.nunique().eq(2).all()


@every_recipe
def test_sizes_stand_next_to_each_other(name):
    presets = recipe(name).PRESETS
    assert list(presets) == ['tiny', 'quick', 'medium', 'full']
    kinds = {type(o) for o in presets.values()}
    assert len(kinds) == 1 and len({json.dumps(vars(o)) for o in presets.values()}) == 4
    for f in fields(next(iter(kinds))):
        assert f.metadata['doc'] and f.default is not MISSING


@every_recipe
def test_each_option_is_explained(name):
    for function in recipe(name).experiment.functions():
        for p in inspect.signature(function).parameters.values():
            if p.name != 'rep':
                assert len(get_args(p.annotation)[-1]) > 3, p.name


@every_recipe
def test_wrong_settings_are_refused_before_anything_is_written(name, tmp_path):
    run, quick = recipe(name).run, recipe(name).PRESETS['quick']
    out = tmp_path/'out'
    assert 'tiny or quick or medium or full' in refused(run, 'huge', out=out)
    assert "no setting 'epoch'" in refused(run, 'tiny', out=out, epoch=3)
    assert 'seeds must be 1 or more' in refused(run, 'tiny', out=out, seeds=0)
    assert 'seed 0 or more' in refused(run, 'tiny', out=out, seed=-1)
    for f in fields(quick):
        wrong = [object()]
        if f.metadata['above'] is not None:
            wrong += [f.metadata['above'], float('nan')]
        if f.metadata['least'] is not None:
            wrong.append(f.metadata['least'] - 1)
        if f.metadata['below'] is not None:
            wrong.append(f.metadata['below'])
        if f.metadata['among']:
            wrong.append('something else')
        for value in wrong:
            value = (value,) if get_origin(f.type) is tuple else value
            assert f.name in refused(replace, quick, **{f.name: value})
    assert not out.exists()


def interrupted(name, out, n, **options):
    "A run that is stopped when it writes its n-th score"
    plain, calls = labels.write_scores, []

    def stop(*args):
        plain(*args)
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, 'write_scores', stop)
        with pytest.raises(KeyboardInterrupt, match='give the same command'):
            recipe(name).run('tiny', out=out, device='cpu', **options)


@every_recipe
def test_a_run_stopped_while_it_measures_resumes(name, whole, tmp_path):
    out = tmp_path/'cut'
    interrupted(name, out, 3, seeds=2)
    draws = recipe(name).PRESETS['tiny'].draws
    says = refused(recipe(name).run, 'tiny', out=out, device='cpu', seeds=2,
                   draws=draws + 1)
    assert f'unfinished run with draws {draws}, not {draws + 1}' in says
    assert f'{out} holds' in says
    measured = []
    with pytest.MonkeyPatch.context() as patch:
        plain = labels._score
        patch.setattr(labels, '_score', lambda task, prediction, key: (
            measured.append(key), plain(task, prediction, key))[1])
        report = recipe(name).run('tiny', out=out, device='cpu', seeds=2)
    first = Report.load(whole(name))
    assert report.scores == first.scores and report.headline == first.headline
    assert len(measured) == len(report.scores) - 3


@every_training
def test_a_run_stopped_in_its_second_pre_training_resumes(name, whole, tmp_path):
    it, out, calls = recipe(name).experiment, tmp_path/'cut', []

    def stop(data, cfg, device, seed, folder):
        calls.append(seed)
        if seed == 1:
            raise KeyboardInterrupt
        return it.learn(data, cfg, device, seed, folder)

    with pytest.raises(KeyboardInterrupt, match='give the same command'):
        replace(it, learn=stop).functions()[0](
            'tiny', out=out, device='cpu', seeds=2)
    report = recipe(name).run('tiny', out=out, device='cpu', seeds=2)
    assert calls == [0, 1] and report.scores == Report.load(whole(name)).scores
    same = [load_file(f/'representation'/'encoder.safetensors')
            for f in (out, whole(name))]
    assert all(torch.equal(same[0][k], same[1][k]) for k in same[0])


@every_recipe
def test_a_finished_run_is_not_overwritten(name, whole):
    assert 'holds a finished run' in refused(recipe(name).run, 'tiny', out=whole(name))


@parametrize('chapter', [c for c in BOOK if c.scores])
def test_a_saved_representation_is_scored_on_its_own_test_set(
        chapter, whole, tmp_path, capfd):
    "Though another split is asked for: what pre-training saw is not tested on"
    rep = Representation.load(whole(chapter.name)/'representation')
    assert rep.preprocessing.kind == chapter.scores
    it = recipe(chapter.name)
    small = replace(it.experiment, presets=it.PRESETS | dict(quick=it.PRESETS['tiny']))
    report = small.functions()[1](rep, seed=3, out=tmp_path/'out', device='cpu')
    assert report.method in set(report.table.method) and report.recipe == 'transfer'
    assert not any('scratch' in m for m in report.table.method)
    said = ' '.join(str(report).split())
    assert 'No network was trained from scratch' in said
    if 'split_seed' in rep.card['data']:
        assert report.seed == 0
        assert 'they are split with seed 0 again' in capfd.readouterr().err
    assert 'no option' in refused(small.functions()[1], rep, unlabelled='more.txt')


@every_recipe
def test_the_command_runs_in_two_processes(name, tmp_path):
    "One report, of the first; the other ends when it has done its share"
    done = subprocess.run(
        [sys.executable, *TORCHRUN, '-m', 'replearn_nb.cli', 'run', name, '--preset',
         'tiny', '--device', 'cpu', '--out', tmp_path/'out'],
        env=ENV, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('Written to') == 1
    table = Report.load(tmp_path/'out').table
    assert isinstance(table, pd.DataFrame) and len(table)
    shutil.rmtree(tmp_path/'out')


def test_a_rank_that_fails_ends_the_others_with_its_sentence(tmp_path):
    "And what was begun cannot be resumed by another number of processes"
    failed = torchrun('rank_fails.py', tmp_path/'out')
    assert failed.returncode and 'No space left on the second machine' in failed.stderr
    assert not (tmp_path/'out'/'report.json').exists()
    out = tmp_path/'two'
    calls = []

    def stop(*args):
        calls.append(args)
        raise KeyboardInterrupt

    it = recipe('simclr').experiment
    with pytest.MonkeyPatch.context() as patch:  # its checkpoint says two processes
        plan_of = base.plan_of
        patch.setattr(base, 'plan_of', lambda learn: plan_of(learn) | dict(processes=2))
        with pytest.raises(KeyboardInterrupt):
            replace(it, measure=stop).functions()[0]('tiny', out=out, device='cpu')
    says = refused(recipe('simclr').run, 'tiny', out=out, device='cpu')
    assert 'processes was 2, is 1' in says and len(calls) == 1
