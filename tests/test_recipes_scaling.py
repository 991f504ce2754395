"Scaling: the fit against known laws, which points make a line, the smallest recipe"
import json

import numpy as np
import pandas as pd
import pytest
import torch

from replearn_nb.core import ReplearnError
from replearn_nb.recipes.scaling import (
    Curve,
    count_params,
    laws,
    make_encoder,
    make_rows,
    plan,
    points,
    power_law,
    run,
    settings,
    train_one,
)

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def texts():
    from replearn_nb.data.text import make_texts, split_texts
    rng = np.random.default_rng(0)
    words = [f'word{i}' for i in range(30)]
    lines = [' '.join(words[(i + j) % 30] for j in range(12)) + '.'
             for i in rng.integers(0, 30, 300)]
    return split_texts(make_texts(lines, [f'c{i % 3}' for i in range(300)]),
                       name='counting')


@pytest.fixture
def cfg():
    return settings('quick', steps=32) | dict(
        vocab_size=60, max_len=32, widths=(8, 16, 32), shares=(.1, .3, 1.),
        budgets=(2, 5), draws=2)


def test_a_power_law_is_found_and_its_interval_covers():
    x = np.logspace(3, 7, 5)
    exact = power_law(x, 9 * x**-.3)
    assert exact['exponent'] == pytest.approx(.3)
    assert exact['constant'] == pytest.approx(9)
    rng, inside = np.random.default_rng(0), 0
    for _ in range(500):
        law = power_law(x, 9 * x**-.3 * np.exp(.1 * rng.normal(size=5)))
        inside += law['low'] < .3 < law['high']
    assert abs(inside / 500 - .95) < 4 * (.95 * .05 / 500)**.5


def world():
    "Runs whose losses follow one law of each kind, with time to spare"
    rows = [(n, d, step, 6 * n * step, 5 * n**-.1 + 9 * d**-.2 + 100 / step)
            for n in (1e3, 1e4, 1e5) for d in (1e4, 1e5, 1e6)
            for step in (10, 1e3, 1e5)]
    return pd.DataFrame(rows, columns=['params', 'tokens', 'step', 'compute', 'loss'])


def test_lines_go_through_the_right_points():
    df = world()
    found = points(df)
    assert (found['params'].tokens == 1e6).all() and (found['params'].step == 1e5).all()
    assert sorted(found['tokens'].tokens) == [1e4, 1e5, 1e6]
    best = df[(df.params == 1e5)].groupby('tokens').loss.min()
    assert found['tokens'].set_index('tokens').loss.to_dict() == best.to_dict()
    frontier = found['compute']
    assert frontier.loss.is_monotonic_decreasing and (frontier.tokens == 1e6).all()
    for _, row in df[df.tokens == 1e6].iterrows():
        spent = frontier[frontier.compute <= row.compute]
        assert (spent.loss <= row.loss + 1e-12).any()
    assert set(laws(df).columns) >= {'exponent', 'low', 'high', 'published', 'points'}


def test_the_plan_varies_size_and_data_alone_and_together(cfg):
    runs = plan(cfg)
    assert len(set(runs)) == len(runs)
    assert {w for w, s in runs if s == 1.} == {8, 16, 32}
    for end in 8, 32:
        assert {s for w, s in runs if w == end} == {.1, .3, 1.}


def test_one_run_measures_what_it_says(texts, cfg):
    tok, rows, held_out = make_rows(texts, cfg)
    one, two = (train_one(make_encoder(16, cfg, tok), rows, held_out, cfg, tok, CPU)
                for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert one.step.tolist() == [2, 4, 8, 16, 32]
    assert one.loss.iloc[-1] < one.loss.iloc[0]
    encoder = make_encoder(16, cfg, tok)
    assert one.params[0] == count_params(encoder) == sum(
        p.numel() for k, p in encoder.named_parameters() if k.startswith('blocks.'))
    assert one.tokens[0] == int((rows[1] > 0).sum())
    per_step = cfg['bs'] * cfg['max_len'] * one.tokens[0] / rows[0].numel()
    assert one.seen.tolist() == pytest.approx((one.step * per_step).tolist(), abs=1)
    assert (one.compute == 6 * one.params * one.seen).all()


def test_the_curve_changes_nothing_in_the_run(texts, cfg, monkeypatch):
    tok, rows, held_out = make_rows(texts, cfg)
    ends = []
    for steps in ([32], [2, 5, 9, 32]):
        monkeypatch.setattr('replearn_nb.recipes.scaling.Curve',
                            lambda ids, doc, _, s=steps: Curve(ids, doc, s))
        encoder = make_encoder(8, cfg, tok)
        train_one(encoder, rows, held_out, cfg, tok, CPU)
        ends.append(encoder.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_a_run_ends_when_its_data_are_used_up(texts, cfg, monkeypatch):
    losses = [3., 2., 2.1, 9., 9.]
    monkeypatch.setattr(Curve, 'loss_of', lambda self, *_: losses[len(self.found)])
    tok, rows, held_out = make_rows(texts, cfg)
    df = train_one(make_encoder(8, cfg, tok), rows, held_out, cfg, tok, CPU)
    assert df.step.tolist() == [2, 4, 8] and df.loss.tolist() == losses[:3]


def test_the_recipe(texts, cfg, tmp_path, monkeypatch):
    here = 'replearn_nb.recipes.scaling'
    monkeypatch.setattr(f'{here}.load_splits', lambda cfg, seed: texts)
    monkeypatch.setattr(f'{here}.settings', lambda *a, **kw: cfg)
    report = run(out=tmp_path/'out', device='cpu')
    table = pd.read_csv(tmp_path/'out/sweep.csv')
    assert len(table) == 5 * len(plan(cfg)) and (tmp_path/'out/laws.png').stat().st_size
    kept = json.loads((tmp_path/'out/report.json').read_text())
    assert kept['headline'] == report.headline
    slope = laws(table).exponent['params']
    assert kept['headline']['params exponent'] == round(slope, 4)
    assert report.table.method.nunique() == 5


def test_too_few_steps_are_refused(tmp_path):
    with pytest.raises(ReplearnError, match='at least 16 steps, not 3'):
        run(out=tmp_path/'x', steps=3)
