"k-NN votes beside a loop in float64, linear probes beside scikit-learn"
import math
import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch.nn import functional as F

from replearn_nb.core import ReplearnError
from replearn_nb.transfer.probes import (
    LinearProbe,
    knn_accuracy,
    knn_method,
    knn_predict,
    lbfgs,
    principal_axes,
    probe_method,
)

def make(n, d, n_classes=4, spread=1., seed=0):
    "Classes with overlapping, correlated, shifted features of unequal size"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, d, generator=g, dtype=torch.float64)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) / math.sqrt(d)
    x = centres[y] + spread * torch.randn(n, d, generator=g, dtype=torch.float64) @ mix
    return 5 + x * torch.logspace(-2, 1, d, dtype=torch.float64), y


def loop_votes(x, y, queries, k, temperature, n_classes):
    "The definition, one pair at a time; all that tie with the k-th vote"
    out = np.zeros((len(queries), n_classes))
    for i, q in enumerate(queries.double().numpy()):
        sims = np.array([q @ f / np.linalg.norm(q) / np.linalg.norm(f)
                         for f in x.double().numpy()])
        kth = np.sort(sims)[-min(k, len(x))]
        for s, c in zip(sims, y.tolist(), strict=True):
            if s >= kth - 1e-12:
                out[i, c] += math.exp(s / temperature)
    return out / out.sum(1, keepdims=True)


@pytest.mark.parametrize('k', [1, 3, 20, 1000])
@pytest.mark.parametrize('bs', [None, 7])
def test_knn_is_the_definition(k, bs):
    (x, y), (q, _) = make(60, 9), make(25, 9, seed=1)
    got = knn_predict(x, y, q, k=k, temperature=.1, n_classes=6, bs=bs)
    want = loop_votes(x, y, q, k, .1, 6)
    np.testing.assert_allclose(got, want, atol=1e-9)
    assert got.shape == (25, 6)


def test_knn_ties_do_not_depend_on_order():
    x = torch.tensor([[1., 0], [1, 0], [2, 0], [0, 1], [.5, 0]])
    y, q = torch.tensor([2, 1, 0, 3, 1]), torch.tensor([[3., 0]])
    want = torch.tensor([[.25, .5, .25, 0]])
    for order in (0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (3, 4, 2, 1, 0):
        i = torch.tensor(order)
        torch.testing.assert_close(knn_predict(x[i], y[i], q, k=2), want)


def test_knn_extreme_values():
    (x, y), (q, _) = make(50, 5), make(10, 5, seed=1)
    for temperature in 1e-6, 1e6:
        votes = knn_predict(x.float(), y, q, k=9, temperature=temperature)
        assert votes.isfinite().all()
    nearest = F.normalize(q) @ F.normalize(x).T
    assert knn_predict(x, y, q, temperature=1e-6).argmax(1).tolist() == \
        y[nearest.argmax(1)].tolist()
    assert knn_predict(x, y, torch.zeros(1, 5)).isfinite().all()
    assert knn_accuracy(x, y, x, y, k=1) == 1


@pytest.mark.parametrize('change, says', [
    (dict(queries=torch.zeros(2, 3)), 'queries have 3 features'),
    (dict(labels=torch.zeros(5).long()), 'should be 50 whole numbers'),
    (dict(labels=torch.zeros(50)), 'should be 50 whole numbers'),
    (dict(n_classes=2), 'run from 0 to 3, but should run from 0 to 1'),
    (dict(queries=torch.full((1, 5), torch.nan)), 'queries hold NaN'),
    (dict(features=torch.zeros(0, 5)), r'have shape \(0, 5\)'),
])
def test_knn_says_what_is_wrong(change, says):
    x, y = make(50, 5)
    with pytest.raises(ReplearnError, match=says):
        knn_predict(**(dict(features=x, labels=y, queries=x) | change))


def optimum(x, y, C):
    "scikit-learn's, as exactly as it can"
    return LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(x, y)


def same_as_sklearn(x, y, C, tol=2e-4, **kwargs):
    probe = LinearProbe.fit(x, y, strengths=[C], **kwargs)
    scaled = (x.double() - probe.mean) / probe.std
    peer = optimum(scaled.numpy(), y.numpy(), C)
    mine = probe.predict_proba(x)[:, torch.tensor(peer.classes_)]
    np.testing.assert_allclose(mine, peer.predict_proba(scaled.numpy()), atol=tol)

    def value(logits, weight):
        target = torch.searchsorted(torch.tensor(peer.classes_), y)
        loss = F.cross_entropy(torch.as_tensor(logits), target, reduction='sum')
        return loss.item() + float((weight ** 2).sum()) / 2 / C

    if len(peer.classes_) > 2:
        weight = probe.weight[torch.tensor(peer.classes_)]
        logits = probe.logits(x)[:, torch.tensor(peer.classes_)].double()
        least = value(peer.decision_function(scaled.numpy()), peer.coef_)
        assert value(logits, weight.double().numpy()) <= least * (1 + 1e-4)
    return probe


@pytest.mark.parametrize('C', [1e-3, .1, 10.])
@pytest.mark.parametrize('n, d, n_classes', [
    (10, 64, 10), (30, 512, 3), (64, 64, 4), (65, 64, 4), (300, 16, 5), (40, 20, 2),
    (50, 1, 3)])
def test_probe_is_sklearns_optimum(n, d, n_classes, C):
    same_as_sklearn(*make(n, d, n_classes), C)


def test_probe_on_separable_data():
    x, y = make(100, 30, 3, spread=.01)
    probe = same_as_sklearn(x, y, 1.)
    assert (probe.predict(x) == y).all()
    assert LinearProbe.fit(x, y, strengths=[1e6]).weight.isfinite().all()


def test_probe_absent_and_not_contiguous_classes():
    x, y = make(80, 12, 3)
    odd = torch.tensor([2, 5, 9])[y]
    probe = same_as_sklearn(x, odd, .1, n_classes=12)
    p = probe.predict_proba(x)
    absent = [0, 1, 3, 4, 6, 7, 8, 10, 11]
    assert p.shape == (80, 12) and (p[:, absent] == 0).all()
    plain = LinearProbe.fit(x, y, strengths=[.1])
    torch.testing.assert_close(p[:, [2, 5, 9]], plain.predict_proba(x))
    assert LinearProbe.fit(x, odd, strengths=[.1]).predict_proba(x).shape == (80, 10)


def test_probe_in_single_precision():
    x, y = make(9000, 128, 6)  # more than 2**20 numbers
    probe = same_as_sklearn(x.float(), y, .01, tol=.02)
    assert probe.weight.dtype == torch.float32


def test_sorted_rows_are_fitted_too():
    x, y = make(6000, 16, 3)
    order = y.argsort(stable=True)
    same_as_sklearn(x[order], y[order], .1)


def test_standardise_on():
    x, y = make(40, 10)
    pool, _ = make(500, 10, seed=3)
    probe = LinearProbe.fit(x, y, strengths=[.1], standardise_on=pool)
    scaled = ((x - pool.mean(0)) / pool.std(0, correction=0)).numpy()
    peer = optimum(scaled, y.numpy(), .1)
    np.testing.assert_allclose(probe.weight, peer.coef_, atol=1e-4)
    np.testing.assert_allclose(
        probe.predict_proba(x), peer.predict_proba(scaled), atol=1e-5)


def test_strength_is_chosen_by_cross_validation_inside_the_labels():
    "Each fold is left out once; scikit-learn fits the rest"
    x, y = make(60, 40, spread=4)
    strengths = [10., 1e-3, .1]
    probe = LinearProbe.fit(x, y, strengths=strengths)
    assert list(probe.scores) == sorted(strengths)
    scaled, std = x.numpy(), x.std(0, correction=0).numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for C in strengths:
        total = 0.
        for fit, held in folds.split(scaled, y):
            peer = optimum((scaled[fit] - scaled[fit].mean(0)) / std, y[fit].numpy(), C)
            logp = peer.predict_log_proba((scaled[held] - scaled[fit].mean(0)) / std)
            total += logp[np.arange(len(held)), y[held]].sum()
        assert probe.scores[C] == pytest.approx(total / 60, rel=.02)
    assert probe.C == max(probe.scores, key=probe.scores.get)
    single = LinearProbe.fit(x, y, strengths=[probe.C])
    torch.testing.assert_close(probe.weight, single.weight, rtol=0, atol=1e-4)


def test_a_class_with_one_example_leaves_no_choice():
    x, y = make(20, 10)
    y[0] = 9
    probe = LinearProbe.fit(x, y)
    assert probe.C == .1 and probe.scores == {}


def test_methods_of_frozen_features():
    x, y = make(80, 6, spread=.1)
    f, labelled = dict(train=x[:60], test=x[60:]), np.arange(60)
    for method in probe_method(f, 4), knn_method(f, 4):
        assert (method(labelled, y[:60], 0) == y[60:]).double().mean() > .9
        turned = method(labelled, (y[:60] + 1) % 4, 0)  # only what it is given counts
        assert (turned == (y[60:] + 1) % 4).double().mean() > .9


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_neighbours_at_any_scale(scale):
    (x, y), (q, _) = make(60, 8), make(20, 8, seed=1)
    x, q = x.float(), q.float()
    torch.testing.assert_close(knn_predict(x * scale, y, q * scale),
                               knn_predict(x, y, q), rtol=0, atol=1e-3)


@pytest.mark.parametrize('change, says', [
    (dict(k=0), 'k should be at least 1'), (dict(k=-1), 'k should be at least 1'),
    (dict(temperature=0), 'temperature above 0'),
    (dict(labels=['a'] * 40), 'labels should be whole numbers'),
    (dict(labels=[None] * 40), 'labels should be whole numbers')])
def test_neighbours_say_what_is_wrong(change, says):
    x, y = make(40, 10)
    with pytest.raises(ReplearnError, match=says):
        knn_predict(**dict(features=x, labels=y, queries=x) | change)


def test_head_is_the_probe():
    x, y = make(50, 8)
    probe = LinearProbe.fit(x, y, strengths=[.1], n_classes=6)
    head = probe.head()
    assert head.weight.shape == (6, 8) and head.weight.requires_grad
    torch.testing.assert_close(
        head(x.float()).softmax(1).double(), probe.predict_proba(x), rtol=0, atol=1e-5)


def test_constant_features():
    x, y = make(60, 10)
    plain = LinearProbe.fit(x, y, strengths=[.1])
    same = torch.cat([x, torch.full((60, 2), .1)], 1)
    probe = LinearProbe.fit(same.float(), y, strengths=[.1])
    torch.testing.assert_close(
        probe.predict_proba(same), plain.predict_proba(x), rtol=0, atol=1e-4)
    for n in 5, 60:  # fewer and more rows than features
        p = LinearProbe.fit(torch.ones(n, 10), y[:n], strengths=[1]).predict_proba(x)
        share = y[:n].bincount(minlength=4) / n
        torch.testing.assert_close(p[0].float(), share, rtol=0, atol=1e-5)


def test_arrays_and_half_precision():
    x, y = make(60, 10)
    a = LinearProbe.fit(x.numpy(), y.numpy().astype('uint8'), strengths=[.1])
    b = LinearProbe.fit(x.float().half(), y.int(), strengths=[.1])
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=.02)
    assert a.predict(x.numpy()).dtype == torch.int64


@pytest.mark.parametrize('change, says', [
    (dict(y=torch.zeros(40).long()), 'All 40 labels are 0: a probe needs'),
    (dict(y=torch.arange(39)), 'y should be 40 whole numbers'),
    (dict(y=torch.arange(40) - 1), 'y run from -1 to 38'),
    (dict(y=['cat'] * 40), 'y should be whole numbers'),
    (dict(x=torch.full((40, 10), torch.inf)), 'x hold NaN or infinity, first in row 0'),
    (dict(standardise_on=torch.full((4, 10), torch.nan)), 'standardise_on hold NaN'),
    (dict(standardise_on=torch.ones(4, 9)), 'standardise_on has 9'),
    (dict(strengths=[0., 1.]), 'above 0'),
    (dict(strengths=[]), 'above 0'),
])
def test_probe_says_what_is_wrong(change, says):
    x, y = make(40, 10)
    args = dict(x=x, y=y) | change
    with pytest.raises(ReplearnError, match=says):
        LinearProbe.fit(**args)


def test_nothing_is_changed_or_drawn():
    x, y = make(40, 10)
    before, state = x.clone(), torch.get_rng_state()
    a = LinearProbe.fit(x, y)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a.weight, LinearProbe.fit(x, y).weight)


def test_principal_axes_span_the_rows():
    for n, d in (5, 30), (30, 5), (12, 12):
        x, _ = make(n, d)
        x = x - x.mean(0)
        axes, length = principal_axes(x)
        torch.testing.assert_close(x @ axes @ axes.T, x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            (x @ axes).square().sum(0), length, rtol=1e-5, atol=1e-6)


def test_lbfgs_far_from_the_quadratic():
    scale = torch.logspace(-2, 2, 40, dtype=torch.float64)  # w = 1 is in a linear tail

    def fun(w):  # 1 + sum log cosh
        z = scale * w
        value = 1 + (z.abs() + (-2 * z.abs()).exp().log1p() - math.log(2)).sum()
        return value.item(), scale * z.tanh()

    w = lbfgs(fun, torch.ones(40, dtype=torch.float64), scale ** 2, rtol=1e-14)
    assert fun(w)[0] == pytest.approx(1, abs=1e-9)


def test_small_problems_are_quick():
    x, y = make(100, 128, 10)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        LinearProbe.fit(x, y)
        seconds.append(time.process_time() - start)
    assert min(seconds) < .5  # about .02 on an idle machine
