"The chapter on labels: its worlds are what it says, and its batched students are right"
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import nn

from replearn_nb.recipes import labels
from replearn_nb.recipes.book import BOOK
from replearn_nb.recipes.labels import (
    ALL_DOGS,
    CAT,
    LINE,
    LINE_ON_SQUARES,
    NETWORK,
    PRESETS,
    TERRIERS,
    apply_models,
    best_accuracy,
    crossing,
    crossing_in_words,
    fit_models,
    init_models,
    new_animals,
    one_thread,
    run,
    score_study,
    squares,
    standard,
    study,
)

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
        return fit_models(x, y, seen, (2, 4, 1), .01, .1, g, steps=20)

    first, x2, y2 = fit(x, y), x.clone(), y.clone()
    x2[0, 10:], y2[0, 10:] = 99, 0
    x2[1, 30:], y2[1, 30:] = -99, 1
    for a, b in zip(first, fit(x2, y2), strict=True):
        assert torch.equal(a, b)
    x2[1, 0] = 5  # what the second student sees, the first does not feel
    for a, b in zip(first, fit(x2, y2), strict=True):
        assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])


@pytest.mark.parametrize('method', [LINE, LINE_ON_SQUARES], ids=['line', 'on squares'])
@pytest.mark.parametrize('n', [20, 3000])
def test_a_line_is_regularised_logistic_regression(method, n):
    "As scikit-learn's with C = 1/penalty: the penalty is shared by the n animals"
    x, y = animals(ALL_DOGS, n)
    inputs, penalty = method['features'](x), method['penalty']
    with one_thread():
        layers = fit_models(inputs.expand(3, -1, -1), y.expand(3, -1),
                            torch.tensor([n] * 3), method['widths'], method['lr'],
                            penalty, torch.Generator().manual_seed(0))

    def cost(logits, weight):
        logits, weight = torch.tensor(logits).double(), torch.tensor(weight).double()
        loss = F.binary_cross_entropy_with_logits(logits, y.double())
        return (loss + penalty / 2 * weight.square().sum() / n).item()

    exact = LogisticRegression(C=1 / penalty, max_iter=5000).fit(inputs, y)
    least = cost(exact.decision_function(inputs), exact.coef_)
    for k, logits in enumerate(apply_models(layers, inputs.expand(3, -1, -1))):
        assert least - 1e-4 < cost(logits.tolist(), layers[0][k].tolist()) < least + .02
    free = LogisticRegression(C=1e6, max_iter=5000).fit(inputs, y)
    assert layers[0][0].norm() < (.7 if n == 20 else 1.1) * np.linalg.norm(free.coef_)


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


@pytest.mark.parametrize('seed', range(4))
def test_no_study_trains_on_new_animals(seed):
    "Whatever its seed: also that from which the test animals are drawn"
    s = study(ALL_DOGS, {}, sizes=(10_000,), seeds=3, seed=seed)
    test, _ = new_animals(ALL_DOGS)
    trained = set(map(tuple, s.x.flatten(0, 1).tolist()))
    assert len(trained) == 30_000 and not trained & set(map(tuple, test.tolist()))


def test_a_study_is_seeded_and_paired():
    methods = dict(line=LINE, network=NETWORK | dict(widths=(2, 8, 1)))
    small = dict(sizes=(10, 40), seeds=3)
    first, again = (study(TERRIERS, methods, **small) for _ in range(2))
    a, b = (score_study(s, 500) for s in (first, again))
    assert a.equals(b) and len(a) == 2 * 2 * 3
    other = study(TERRIERS, methods, **small, seed=1)
    assert not a.equals(score_study(other, 500))
    assert a.score.min() > .5
    alone = study(TERRIERS, dict(network=NETWORK), **small)
    assert torch.equal(first.x, alone.x) and torch.equal(first.y, alone.y)


def curves(seeds=5, **scores):
    return pd.DataFrame([(m, b, s, y) for m, ys in scores.items() for s in range(seeds)
                         for b, y in zip([1, 4, 16], ys, strict=True)],
                        columns=['method', 'budget', 'seed', 'score'])


@pytest.mark.parametrize('network, labels, words', [
    ([.3, .5, .8], 8, '8.0'), ([.9, .5, .8], 8, '8.0'), ([.9, .9, .9], 0, 'at most 1'),
    ([.1, .1, .1], np.inf, 'more than 16'), ([.9, .9, .6], np.inf, 'more than 16')])
def test_crossing_by_hand(network, labels, words):
    df = curves(line=[.5, .6, .7], network=network)
    assert crossing(df, margin=0) == pytest.approx((labels,) * 3)
    assert crossing_in_words(df, margin=0) == words
    few = crossing(df[df.seed < 4], margin=0)  # too few for an interval
    assert few[0] == pytest.approx(labels) and np.isnan(few[1:]).all()


def test_crossing_compares_the_same_draws():
    df = curves(7, line=[.5, .6, .7], network=[.3, .5, .8])
    luck = np.random.default_rng(0).normal(0, .2, 7)
    df['score'] += luck[df.seed]  # the same for both
    fewer = df[~((df.method == 'network') & (df.seed > 4))]
    for scores in df, fewer:
        assert crossing(scores, margin=0) == pytest.approx((8, 8, 8))


@pytest.mark.parametrize('draws', sorted({
    n for p in PRESETS.values() for n in (p.animals, p.network_draws) if n > 4}))
def test_the_interval_of_a_crossing_covers_it(draws):
    """At the numbers of draws that the presets use

    Draws are nested: the luck of a draw at one budget goes on to the next."""
    rng, budgets, inside = np.random.default_rng(draws), 2 ** np.arange(7), 0
    lead = .05 * (np.log2(budgets) - 3.3)  # crosses 0 at 2**3.3
    for _ in range(400):
        luck = rng.normal(0, .04 / budgets**.25, (draws, 7))
        for k in range(1, 7):
            luck[:, k] += .5 * luck[:, k - 1]
        df = pd.DataFrame([(m, b, s, (lead[k] + luck[s, k]) * (m == 'network'))
                           for m in ('line', 'network') for s in range(draws)
                           for k, b in enumerate(budgets)],
                          columns=['method', 'budget', 'seed', 'score'])
        _, low, high = crossing(df, margin=0)
        inside += low < 2**3.3 < high
    assert .9 <= inside / 400 < .99


def test_the_recipe_tells_where_curves_cross(tmp_path):
    report = run('tiny', out=tmp_path, device='cpu', animals=5, budgets=(1, 2, 500))
    assert report.data == 'digits' and report.preset == 'tiny'
    table = report.table  # no class of digits has 500 examples
    assert table.groupby(['method', 'budget']).size().to_dict() == {
        (m, b): 2 for m in ('raw+linear', 'scratch') for b in (1, 2)}
    assert set(report.headline) == {
        'crossing_terriers', 'crossing_terriers_regularised', 'crossing_all_dogs',
        'crossing_all_dogs_regularised', 'crossing_images_per_class'}
    assert ' to ' in report.headline['crossing_terriers']
    assert ' to ' not in report.headline['crossing_images_per_class']  # two draws
    for world in 'terriers', 'dogs':
        each = pd.DataFrame(report.tables[world])
        assert set(each.method) == set(labels.MODELS)
        assert set(each.budget) == set(labels.SIZES) and each.seed.nunique() == 5


def test_the_book_names_this_chapter():
    chapter = next(c for c in BOOK if c.name == 'labels')
    assert chapter.title == 'Why labels are the bottleneck'


def test_an_interrupted_run_says_that_nothing_was_kept(tmp_path, stop_at):
    stop_at(labels, 'image_scores', 1)
    with pytest.raises(KeyboardInterrupt, match='before anything was kept'):
        run('tiny', out=tmp_path/'out', device='cpu')
    assert not list(tmp_path.iterdir())
