"What all recipes share: settings, the clock of an interrupted run, odd experiments"
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from processes import ENV

from replearn_nb.core import ReplearnError, write_json
from replearn_nb.experiment import (
    Experiment,
    Findings,
    Notes,
    Settings,
    choose,
    kept_file,
    label_study,
    setting,
)
from replearn_nb.recipes import bert, graphs
from replearn_nb.transfer.labels import LabelTask, Method, Metric, label_efficiency
from replearn_nb.transfer.report import Report

@pytest.mark.parametrize('presets, changes', [
    (bert.PRESETS, dict(dropout=0., lr=1, budgets=[0, 5], beside='x', tasks=True)),
    (graphs.PRESETS, dict(tune_epochs=0, dropout=0, molecules=None)),
    (bert.PRESETS, dict(lr=np.float32(.5), epochs=np.int64(3), width=torch.tensor(8))),
])
def test_settings_that_are_valid(presets, changes):
    known = presets['quick']
    got = choose(presets, 'quick', **changes)
    for k, v in changes.items():
        old, new = getattr(known, k), getattr(got, k)
        assert new == (old if v is None else tuple(v) if isinstance(v, list) else v)
        if old is not None and v is not None:
            assert type(new) is type(old)


@pytest.mark.parametrize('changes, says', [
    (dict(bs='8'), "bs must be a whole number, not '8'"),
    (dict(bs=True), 'bs must be a whole number, not True'),
    (dict(epochs=1.5), 'epochs must be a whole number, not 1.5'),
    (dict(epochs=-1), 'epochs must be at least 1, not -1'),
    (dict(lr=float('inf')), 'lr must be a number, not inf'),
    (dict(lr='1e-3'), "lr must be a number, not '1e-3'"),
    (dict(dropout=-.1), 'dropout must be at least 0, not -0.1'),
    (dict(mask_ratio=1), 'mask_ratio must be below 1, not 1'),
    (dict(variant=3), 'variant must be text, not 3'),
    (dict(variant='gpt'), "variant must be bert or cramming, not 'gpt'"),
    (dict(budgets='12'), "budgets must be a list, not '12'"),
    (dict(lr=0.), 'lr must be above 0, not 0.0'),
    (dict(budgets=(5, -1)), 'each of budgets must be at least 0, not -1'),
    (dict(budgets=(5, .5)), 'each of budgets must be a whole number, not 0.5'),
])
def test_settings_that_are_not(changes, says):
    with pytest.raises(ReplearnError) as e:
        choose(bert.PRESETS, 'quick', **changes)
    assert says in str(e.value)


def test_a_killed_run_has_taken_the_time_until_its_last_sign_of_life(tmp_path):
    "kill -9, in the middle of a stage; the pause until it resumes does not count"
    program = """if True:
        import time
        from pathlib import Path
        from replearn_nb.experiment import Notes
        folder = Path('.')
        notes = Notes(folder, dict(lr=.1))
        notes.begin('pretrain')
        for i in range(1000):
            time.sleep(.1)
            (folder/'checkpoint').write_text(str(i))
            print(i, flush=True)"""
    p = subprocess.Popen([sys.executable, '-c', program], cwd=tmp_path, env=ENV,
                         stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if int(line) == 9:
            p.send_signal(signal.SIGKILL)
            break
    p.wait()
    time.sleep(1)
    wrote = json.loads((tmp_path/'run.json').read_text())['since']
    last = max(f.stat().st_mtime for f in tmp_path.iterdir())
    spent = Notes(tmp_path, dict(lr=.1)).spent
    assert spent == {'pretrain': pytest.approx(last - wrote)} and 1 <= spent['pretrain']
    os.utime(tmp_path/'checkpoint', (wrote - 99, wrote - 99))  # a copied folder's
    os.utime(tmp_path/'run.json', (wrote - 99, wrote - 99))
    assert Notes(tmp_path, dict(lr=.1)).spent == {'pretrain': 0}


def test_scores_belong_to_the_weights_they_were_measured_with(tmp_path):
    one, other = (SimpleNamespace(card=dict(sha256=c * 64)) for c in 'ab')
    assert kept_file(None, 'scores', one) is None
    names = {kept_file(tmp_path/'kept', 'scores', *o).name
             for o in ([], [one], [other], [one, other])}
    assert len(names) == 4


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    frames: int = setting(4, 'of training', least=1)
    draws: int = setting(2, 'of labels', least=1)


@dataclass
class Duel:
    "A generator and a discriminator of one number each: two optimisers, no DataLoader"
    made: torch.Tensor
    card: dict

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder)/'made.json', self.made.tolist())
        self.card['sha256'] = str(hash(tuple(self.made.tolist())))


def duel(data, cfg, device, seed, folder):
    torch.manual_seed(seed)
    g, d = (torch.randn(1, requires_grad=True) for _ in range(2))
    opts = [torch.optim.SGD([p], .1) for p in (g, d)]
    made = []
    for _ in range(cfg.frames):  # as in a game, each learns from the other
        for opt, sign in zip(opts, (1, -1), strict=True):
            opt.zero_grad()
            (sign * d * (g - data.mean)).sum().backward()
            opt.step()
        made.append(g.item())
    return dict(duel=Duel(torch.tensor(made), dict(seed=seed)))


def compare(learned, data, cfg, device, folder=None, whole=True):
    "Returns by frames, of which less is better; and a table of forgetting"
    distance = Metric('distance', lambda y, p: float(abs(y[0] - p[0])), False, 'steps')
    task = LabelTask(range(99), [data.mean], distance, lambda y, n, seed: np.arange(n))

    def methods(reps, k):
        made = reps['duel'].made
        return [Method('duel', lambda rows, y, seed: [made[len(rows) - 1]], True),
                Method('scratch', lambda rows, y, seed: [seed + 9.], draws=1)]
    scores = label_study(task, methods, learned, [1, cfg.frames], cfg.draws, device,
                         folder)
    forgotten = pd.DataFrame(dict(task=['a', 'b'], forgetting=[.5, float('nan')]))
    return Findings(scores=scores, method='duel', metric=distance, axis='frames',
                    tables=dict(forgetting=forgotten))


TOY = Experiment(
    name='duel', presets={p: ToySettings() for p in ('tiny', 'quick')},
    load=lambda cfg, seed: SimpleNamespace(name='numbers', hash='0', mean=2.),
    learn=duel, measure=compare)


def test_a_training_with_two_optimisers_and_a_measure_that_counts_errors(tmp_path):
    "What is learned is no encoder, budgets are frames, less is better, more tables"
    run, _ = TOY.functions()
    report = run('quick', out=tmp_path/'duel', seeds=2)
    assert (report.axis, report.metric, report.unit) == ('frames', 'distance', 'steps')
    assert not report.higher_is_better and report.saving.needed == np.inf
    assert 'With 1 frame duel reaches' in report.text(200)
    assert 'distance steps; any method without pre-training needs more' in (
        report.text(200))
    again = Report.load(tmp_path/'duel')
    assert again.tables == {'forgetting': [dict(task='a', forgetting=.5),
                                           dict(task='b', forgetting=None)]}
    assert again.headline['labels_saved@1'] == 'more than 4'
    made = json.loads((tmp_path/'duel'/'representation'/'made.json').read_text())
    assert len(made) == 4 and (tmp_path/'duel'/'others'/'seed-1').exists()


def test_other_data_or_options_do_not_resume(tmp_path):
    def stop(*args):
        raise KeyboardInterrupt

    run, _ = replace(TOY, measure=stop).functions()
    with pytest.raises(KeyboardInterrupt):
        run('quick', out=tmp_path/'r')
    for other, says in [
            (replace(TOY, load=lambda cfg, seed: SimpleNamespace(
                name='numbers', hash='1', mean=2.)), "data '0', not '1'"),
            (replace(TOY, name='other'), "recipe 'duel', not 'other'")]:
        with pytest.raises(ReplearnError, match=says):
            other.functions()[0]('quick', out=tmp_path/'r')
    with pytest.raises(ReplearnError, match='with frames 4, not 5'):
        TOY.functions()[0]('quick', out=tmp_path/'r', frames=5)
    report = TOY.functions()[0]('quick', out=tmp_path/'r')
    assert report.headline and not (tmp_path/'r'/'run.json').exists()
    assert asdict(TOY.presets['quick']) == dict(frames=4, draws=2)


@pytest.mark.parametrize('processes', [1, 2])
def test_a_method_that_fails_ends_the_study_with_its_sentence(processes, tmp_path):
    "And what was measured before is kept"
    def fails(labelled, y, seed):
        if seed == 3:
            raise ReplearnError('No space left')
        return [0]

    file = tmp_path/'scores.csv'
    task = LabelTask([0, 1] * 9, [0])
    with pytest.raises(ReplearnError, match='No space left'):
        label_efficiency(task, [Method('raw', fails)], [1], 4, False, file,
                         processes=processes)
    assert len(pd.read_csv(file)) >= 1
