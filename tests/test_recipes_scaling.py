"Scaling: the fit against known laws, which points make a line, the smallest recipe"
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from replearn_nb.data.text import make_texts, pack, split_texts
from replearn_nb.recipes import scaling
from replearn_nb.recipes.scaling import (
    PUBLISHED,
    Curve,
    count_params,
    exponents,
    laws,
    make_encoder,
    make_rows,
    plan,
    points,
    power_law,
    train_one,
)

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def texts():
    rng = np.random.default_rng(0)
    words = [f'word{i}' for i in range(30)]
    lines = [' '.join(words[(i + j) % 30] for j in range(12)) + '.'
             for i in rng.integers(0, 30, 300)]
    return split_texts(make_texts(lines, [f'c{i % 3}' for i in range(300)]),
                       name='counting')


@pytest.fixture
def cfg():
    return replace(scaling.PRESETS['tiny'], steps=32, vocab_size=60, max_len=32,
                   widths=(8, 16, 32), shares=(.1, .3, 1.), budgets=(2, 5))


def test_a_power_law_is_found():
    x = np.logspace(3, 7, 5)
    assert power_law(x, 9 * x**-.3) == pytest.approx((.3, 9))


def world(seed=0, bend=0.):
    "Runs whose losses follow one law of each kind, with time to spare"
    rows = [(n, d, step, 6 * n * step,
             5 * n**(-.1 - bend * np.log10(n / 1e4)) + 9 * d**-.2 + 100 / step, seed)
            for n in (1e3, 1e4, 1e5) for d in (1e4, 1e5, 1e6)
            for step in (10, 1e3, 1e5)]
    return pd.DataFrame(rows, columns=['params', 'tokens', 'step', 'compute', 'loss',
                                       'seed'])


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


def test_intervals_are_over_seeds_not_over_the_points_of_a_run():
    "A seed moves all points of its line together, which a regression can't see"
    rng, inside = np.random.default_rng(0), 0
    clean = world()
    true = {k: exponents(clean, k)[0] for k in PUBLISHED}
    for _ in range(60):
        tilt = rng.normal(0, .01, 3)  # of each seed's whole line
        lines = [clean.assign(loss=clean.loss * clean.params**-t, seed=s)
                 for s, t in enumerate(tilt)]
        found = laws(pd.concat(lines)).loc['params']
        inside += found.low < true['params'] < found.high
    assert abs(inside / 60 - .95) < 4 * (.95 * .05 / 60)**.5
    alone = laws(pd.concat([clean.assign(seed=s) for s in range(3)]))
    assert (alone.high - alone.low).max() < 1e-12  # seeds that agree leave no doubt
    assert alone.exponent.to_dict() == pytest.approx(true)
    assert (alone.published == pd.Series(PUBLISHED)).all()


def test_a_bend_shows_in_the_halves():
    straight, bent = (laws(pd.concat([world(0, b), world(1, b)])).loc['params']
                      for b in (0, .02))
    assert bent.first_half < bent.exponent < bent.second_half
    assert (bent.second_half - bent.first_half
            > 2 * (straight.second_half - straight.first_half))


def test_the_published_exponents():
    "Of compute at a fixed batch size (.057), not at the best one (.050)"
    assert PUBLISHED == dict(params=.076, tokens=.095, compute=.057)


def test_the_plan_varies_size_and_data_alone_and_together(cfg):
    runs = plan(cfg)
    assert len(set(runs)) == len(runs)
    assert {w for w, s in runs if s == 1.} == {8, 16, 32}
    assert {s for w, s in runs if w == 32} == {.1, .3, 1.}
    assert {s for w, s in runs if w == 8} == {.1, 1.}


def test_the_loss_is_measured_on_a_sample_of_the_rows(cfg):
    "Not on the first rows, where `pack` puts the long texts"
    rng = np.random.default_rng(0)
    lines = [' '.join(f'word{j}' for j in rng.integers(0, 30, n))
             for n in rng.choice([2, 3, 40], 1500)]
    texts = split_texts(make_texts(lines, [f'c{i % 3}' for i in range(1500)]),
                        name='of many lengths')
    tok, _, (ids, doc) = make_rows(texts, cfg)
    packed = pack(tok.encode(texts.part('valid')[0]), cfg.max_len, tok)
    assert 20 < len(ids) <= 256
    assert sorted(ids.tolist()) == sorted(packed[0].tolist())

    def apart(doc):  # texts per row: by how much the halves differ
        first, second = doc.max(1).values.float().tensor_split(2)
        return abs(first.mean() - second.mean())
    assert apart(packed[1]) > 2 * apart(doc)
    again = make_rows(texts, cfg)[2]
    assert torch.equal(again[0], ids) and torch.equal(again[1], doc)


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
    per_step = cfg.bs * cfg.max_len * one.tokens[0] / rows[0].numel()
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


def test_the_recipe_and_how_it_resumes(texts, cfg, tmp_path, stop_at):
    def run(out):
        return replace(
            scaling.experiment, load=lambda cfg, seed: texts,
            presets=dict(quick=cfg)).functions()[0](out=out, device='cpu', seeds=2)

    whole = run(tmp_path/'whole')
    table = pd.DataFrame(whole.tables['runs'])
    assert len(table) == 5 * len(plan(cfg)) * 2
    law = laws(table).loc['params']
    assert whole.headline['params exponent'] == round(law.exponent, 4)
    assert whole.headline['params low'] == round(law.low, 4)
    made = sorted(p.name for p in (tmp_path/'whole').iterdir())
    assert made == ['figure.png', 'laws.png', 'others', 'report.json', 'representation']
    counts = whole.table.groupby(['method', 'pretraining']).size()
    assert counts['tfidf+linear'].to_dict() == {0: 4}
    assert counts['random+linear'].to_dict() == {0: 4, 1: 4}
    assert whole.table.method.nunique() == 4

    runs = 2 * len(plan(cfg))
    calls = stop_at(scaling, 'train_one', 4)
    with pytest.raises(KeyboardInterrupt, match='give the same command'):
        run(tmp_path/'out')  # stopped in its fourth run
    stop_at(scaling, 'mean_probe', 5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path/'out')  # stopped between the scores of two seeds
    assert len(calls) == 4 + runs - 3
    resumed = run(tmp_path/'out')
    assert len(calls) == 4 + runs - 3
    assert resumed.headline == whole.headline and resumed.scores == whole.scores
    assert resumed.tables == whole.tables
    assert sorted(p.name for p in (tmp_path/'out').iterdir()) == made


def test_the_card_of_the_largest_network_tells_all_losses(texts, cfg, tmp_path):
    reps = scaling.learn(texts, cfg, CPU, 0, tmp_path)
    sizes = [count_params(rep.encoder) for rep in reps.values()]
    assert sizes == sorted(sizes) and list(reps) == [
        f'{n:,} parameters' for n in sizes]
    *_, large = reps.values()
    runs = pd.DataFrame(large.card['pretext']['runs'])
    assert set(runs.params) == set(sizes) and len(runs) == 5 * len(plan(cfg))
