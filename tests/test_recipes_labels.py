"The chapter on labels: its worlds are what it says, and its batched students are right"
import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import nn

from replearn_nb.core import ReplearnError
from replearn_nb.recipes.book import BOOK
from replearn_nb.recipes.labels import (
    ALL_DOGS,
    CAT,
    LINE,
    LINE_ON_SQUARES,
    NETWORK,
    TERRIERS,
    apply_models,
    best_accuracy,
    crossing,
    fit_models,
    init_models,
    one_thread,
    run,
    score_study,
    squares,
    standard,
    study,
)
from replearn_nb.transfer.report import Report

def animals(world, n, seed=0):
    return world.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('world', [TERRIERS, ALL_DOGS], ids=lambda w: w.name)
def test_animals_are_as_declared(world):
    x, y = animals(world, 200_000)
    assert (y == torch.arange(len(y)) % 2).all()
    for label, kind in enumerate([world.cat, world.dog]):
        z = x[y == label].double()
        assert z.mean(0) == pytest.approx(kind.loc.numpy(), abs=.01)
        assert z.T.cov().numpy() == pytest.approx(kind.covariance_matrix.numpy(),
                                                  rel=.02)


def test_the_bayes_error_of_the_first_world():
    "Two normals with one covariance: Phi(delta/2), by the formula and by counting"
    gap = (TERRIERS.dog.loc - TERRIERS.cat.loc).double()
    delta = (gap @ torch.linalg.solve(CAT.covariance_matrix.double(), gap)) ** .5
    best = torch.special.ndtr(delta / 2).item()
    assert best == pytest.approx(.914, abs=.001)
    assert best_accuracy(TERRIERS, 200_000) == pytest.approx(best, abs=.002)


@pytest.mark.parametrize('world', [TERRIERS, ALL_DOGS], ids=lambda w: w.name)
def test_no_learned_rule_beats_the_best_rule(world):
    (x, y), (xt, yt) = animals(world, 100_000), animals(world, 100_000, 1)
    best = ((world.log_odds(xt) > 0) == (yt == 1)).float().mean().item()
    learned = QuadraticDiscriminantAnalysis().fit(x, y).score(xt, yt)
    assert best - .003 < learned < best + .002
    line = LogisticRegression().fit(x, y).score(xt, yt)
    assert best - line < .002 if world is TERRIERS else best - line > .015


def test_stacked_models_are_the_models_one_by_one():
    g = torch.Generator().manual_seed(0)
    layers, x = init_models((2, 8, 8, 1), 3, g), torch.randn(3, 5, 2, generator=g)
    out = apply_models(layers, x)
    for k in range(3):
        net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
                            nn.Linear(8, 1))
        for i, linear in enumerate(net[::2]):
            linear.weight.data = layers[2 * i][k].T
            linear.bias.data = layers[2 * i + 1][k, 0]
        assert torch.allclose(out[k], net(x[k])[:, 0], atol=1e-6)


def test_students_learn_from_their_own_animals_only():
    "What stands after the animals that a student may see changes nothing"
    x, y = (t.view(2, 50, *t.shape[1:]) for t in animals(TERRIERS, 100))
    seen = torch.tensor([10, 30])

    def fit(x, y):
        g = torch.Generator().manual_seed(0)
        return fit_models(x, y, seen, (2, 4, 1), .01, g, steps=20)

    first, x2, y2 = fit(x, y), x.clone(), y.clone()
    x2[0, 10:], y2[0, 10:] = 99, 0
    x2[1, 30:], y2[1, 30:] = -99, 1
    for a, b in zip(first, fit(x2, y2), strict=True):
        assert torch.equal(a, b)
    x2[1, 0] = 5  # what the second student sees, the first does not feel
    for a, b in zip(first, fit(x2, y2), strict=True):
        assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])


@pytest.mark.parametrize('method', [LINE, LINE_ON_SQUARES], ids=['line', 'on squares'])
def test_a_line_is_logistic_regression(method):
    x, y = animals(ALL_DOGS, 3000)
    inputs = method['features'](x)
    with one_thread():
        layers = fit_models(inputs.expand(3, -1, -1), y.expand(3, -1),
                            torch.tensor([3000] * 3), method['widths'], method['lr'],
                            torch.Generator().manual_seed(0))
    exact = LogisticRegression(C=1e6, max_iter=5000).fit(inputs, y)
    least = F.binary_cross_entropy_with_logits(
        torch.tensor(exact.decision_function(inputs)), y.double())
    for logits in apply_models(layers, inputs.expand(3, -1, -1)):
        loss = F.binary_cross_entropy_with_logits(logits, y.float())
        assert least - 1e-4 < loss < least + .02


def test_squares():
    x = torch.tensor([[28 * np.exp(.6), 6.5 * np.exp(-.6)]]).log()
    assert standard(x)[0].tolist() == pytest.approx([2, -1], abs=1e-5)
    assert squares(x)[0].tolist() == pytest.approx([2, -1, 4, -2, 1], abs=1e-4)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_study_is_seeded_and_paired():
    methods = dict(line=LINE, network=NETWORK | dict(widths=(2, 8, 1)))
    small = dict(sizes=(10, 40), seeds=3)
    a, b = (score_study(study(TERRIERS, methods, **small), 500) for _ in range(2))
    assert a.equals(b) and len(a) == 2 * 2 * 3
    other = score_study(study(TERRIERS, methods, **small, seed=1), 500)
    assert not a.equals(other)
    assert a.score.min() > .5


def curves(seeds=1, **scores):
    return pd.DataFrame([(m, b, s, y) for m, ys in scores.items() for s in range(seeds)
                         for b, y in zip([1, 4, 16], ys, strict=True)],
                        columns=['method', 'budget', 'seed', 'score'])


@pytest.mark.parametrize('network, labels', [
    ([.3, .5, .8], 8), ([.9, .5, .8], 8), ([.9, .9, .9], 1), ([.1, .1, .1], np.inf),
    ([.9, .9, .6], np.inf)])
def test_crossing_by_hand(network, labels):
    found = crossing(curves(line=[.5, .6, .7], network=network), margin=0)
    assert found == pytest.approx((labels,) * 3)


def test_crossing_compares_the_same_draws():
    df = curves(5, line=[.5, .6, .7], network=[.3, .5, .8])
    luck = np.random.default_rng(0).normal(0, .2, 5)
    df['score'] += luck[df.seed]  # the same for both
    fewer = df[~((df.method == 'network') & (df.seed > 2))]
    for scores in df, fewer:
        assert crossing(scores, margin=0) == pytest.approx((8, 8, 8))


SMALL = dict(seeds=2, draws=2, network_draws=1, width=4, steps=4, budgets=(1, 2, 500))


def test_the_recipe_writes_its_report(tmp_path):
    report = run(out=tmp_path, device='cpu', **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['figure.png', 'report.json']
    assert Report.load(tmp_path) == report
    assert (report.recipe, report.preset, report.data) == ('labels', 'quick', 'digits')
    table = report.table  # no class of digits has 500 examples
    assert table.groupby(['method', 'budget']).size().to_dict() == {
        ('raw+linear', 1): 2, ('raw+linear', 2): 2,
        ('scratch', 1): 1, ('scratch', 2): 1}
    assert 1 < report.headline['crossing_all_dogs'] < 2000
    assert 'NaN' not in (tmp_path/'report.json').read_text()
    assert json.loads((tmp_path/'report.json').read_text())['seconds']['pretrain'] == 0


@pytest.mark.parametrize('wrong, message', [
    (dict(preset='huge'), "no preset 'huge': choose quick or full"),
    (dict(step=3), "no setting 'step': choose data, seeds"),
    (dict(data='cats'), "data is 'cats': choose digits or fashion_mnist"),
    (dict(device='abacus'), "no device 'abacus'")])
def test_wrong_settings_end_before_anything_is_made(tmp_path, wrong, message):
    with pytest.raises(ReplearnError, match=message):
        run(out=tmp_path/'out', **wrong)
    assert not list(tmp_path.iterdir())


def test_the_book_names_this_chapter():
    chapter = next(c for c in BOOK if c.name == 'labels')
    assert chapter.title == 'Why labels are the bottleneck'
