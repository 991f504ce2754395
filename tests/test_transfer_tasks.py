"Many tasks with missing labels: scores beside scikit-learn, draws, fits, changes"
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.transfer.finetune import finetune
from replearn_nb.transfer.probes import LinearProbe
from replearn_nb.transfer.tasks import (
    ALPHAS,
    TOO_FEW,
    TaskHead,
    changes,
    draw_entries,
    mean_rmse,
    mean_roc_auc,
    only,
    plot_changes,
    probe_tasks,
    rmse,
    task_scores,
)

@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (300, 5)).astype(float)
    y[rng.random((300, 5)) < .4] = np.nan
    y[:, 4] = np.where(np.isnan(y[:, 4]), np.nan, 1)  # one class only
    return y, rng.integers(0, 20, (300, 5)).astype(float)


def pairs_in_order(y, score):
    "The share of pairs of a positive and a negative that are in order, ties half"
    pairs = [(a > b) + (a == b) / 2 for a in score[y == 1] for b in score[y == 0]]
    return sum(pairs) / len(pairs)


def test_scores_are_the_share_of_pairs_in_order(labels):
    y, score = labels
    found = task_scores(torch.tensor(y), torch.tensor(score))
    for t in range(4):
        known = np.isfinite(y[:, t])
        assert found[t] == pytest.approx(pairs_in_order(y[known, t], score[known, t]))
    assert np.isnan(found[4])
    assert mean_roc_auc(y, score) == pytest.approx(found[:4].mean())
    assert np.isnan(mean_roc_auc(y[:, 4:], score[:, 4:]))
    with pytest.raises(ValueError, match='Scores of shape'):
        mean_roc_auc(y, score[:, :2])


def test_a_draw_shows_so_many_labels_of_each_class_and_no_others(labels):
    y = torch.tensor(labels[0][:, :4])
    for seed in range(5):
        entries = draw_entries(y, 7, seed)
        assert len(set(entries.tolist())) == 7 * 2 * 4
        rows, seen = only(y, entries)
        for t in range(4):
            assert [(seen[:, t] == c).sum() for c in (0, 1)] == [7, 7]
        known = seen.isfinite()
        assert torch.equal(seen[known], y[rows][known])
    assert set(draw_entries(y, 3, 1)) <= set(draw_entries(y, 7, 1))
    assert set(draw_entries(y, 7, 1)) != set(draw_entries(y, 7, 2))
    with pytest.raises(ReplearnError, match='task 4 has 0 of class 0'):
        draw_entries(labels[0], 3, 0)


def test_probe_is_one_for_each_task_with_its_own_strength(labels):
    y = torch.tensor(labels[0][:200], dtype=torch.float32)
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    y[:, 3] = (x[:, 3] > 0).float()  # only here is there anything to learn
    together = probe_tasks(x, y)
    assert not any(p.requires_grad for p in together.parameters())
    strengths = []
    for t in range(4):
        known = y[:, t].isfinite()
        alone = LinearProbe.fit(x[known], y[known, t].long())
        odds = alone.logits(x) @ torch.tensor([-1., 1], dtype=torch.float64)
        torch.testing.assert_close(together(x)[:, t], odds.float(), atol=1e-4, rtol=0)
        strengths.append(alone.C)
    assert strengths[3] > max(strengths[:3])
    assert task_scores(y, together(x))[3] > .95
    assert (together(x)[:, 4] == 0).all()


def ridge(x, y, alpha, scale):
    "Least squares with a row for each weight that pulls it to zero; not the bias"
    n, d = x.shape
    rows = np.block([[x / scale, np.ones((n, 1))],
                     [alpha ** .5 * np.eye(d), np.zeros((d, 1))]])
    *weight, bias = np.linalg.lstsq(rows, np.r_[y, np.zeros(d)], rcond=None)[0]
    return lambda new: new / scale @ weight + bias


def test_probe_of_numbers_is_the_best_ridge_regression_by_leaving_one_out():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g) * torch.tensor([1., 9, 1, 1, 1, .1]) + 5
    y = x[:, :2] @ torch.randn(2, 1, generator=g) + torch.randn(40, 1, generator=g) * 20
    a, b, scale = x.double().numpy(), y[:, 0].double().numpy(), x.double().std(
        0, correction=0).numpy()

    def without(i, alpha):
        return ridge(np.delete(a, i, 0), np.delete(b, i), alpha, scale)(a[i])

    errors = [sum((without(i, alpha) - b[i]) ** 2 for i in range(40))
              for alpha in ALPHAS]
    assert 0 < np.argmin(errors) < len(ALPHAS) - 1  # neither the weakest nor the last
    best = ridge(a, b, ALPHAS[np.argmin(errors)], scale)
    layer = probe_tasks(x, y, kind='regression')
    assert layer(x)[:, 0].numpy() == pytest.approx(best(a), abs=1e-2)
    few = probe_tasks(x[:TOO_FEW - 1], y[:TOO_FEW - 1], x, kind='regression')
    fixed = ridge(a[:TOO_FEW - 1], b[:TOO_FEW - 1], 10., scale)
    assert few(x)[:, 0].numpy() == pytest.approx(fixed(a), abs=1e-2)


def test_scores_of_numbers():
    y = np.array([[1., np.nan, np.nan], [3, 5, np.nan]])
    prediction = np.array([[2., 9, 9], [5, 2, 9]])
    assert rmse(y, prediction) == pytest.approx(
        [2.5 ** .5, 3, np.nan], nan_ok=True)
    assert mean_rmse(y, prediction) == pytest.approx((2.5 ** .5 + 3) / 2)
    drawn = draw_entries(y[:, :2], 1, 0, 'regression')
    assert len(drawn) == 2 and np.isfinite(y[:, :2].ravel()[drawn]).all()
    with pytest.raises(ReplearnError, match='training; task 1 has 1'):
        draw_entries(y[:, :2], 2, 0, 'regression')


def tune(encoder, x, y, kind='classification', start=None, **options):
    "All weights at one rate"
    options = dict(lr=1e-3, device='cpu') | options
    return finetune(encoder, TaskHead(y.shape[-1], kind, start), x, y, wd=0.,
                    encoder_lr=options['lr'], **options)


class Toy(nn.Module):
    num_features = 12

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 12), nn.ReLU())

    def forward_features(self, x):
        return self.layers(x)

    forward = forward_features


def test_finetuning_repeats_and_leaves_the_encoder_alone():
    with local_seed(0):
        x, encoder = torch.randn(80, 4), Toy()
    y = (x[:, :2] > 0).float()
    y[::2, 0], y[1::3, 1] = float('nan'), float('nan')
    before = [p.clone() for p in encoder.parameters()]
    options = dict(steps=100, lr=1e-2, seed=1)
    a, b = (tune(encoder, x[:60], y[:60], **options).predict(x) for _ in range(2))
    assert torch.equal(a, b) and mean_roc_auc(y[60:], a[60:]) > .8
    assert all(map(torch.equal, before, encoder.parameters()))
    probe = probe_tasks(encoder(x[:60]).detach(), y[:60])
    tuned = tune(encoder, x[:60], y[:60], start=probe, **options | dict(lr=0.))
    torch.testing.assert_close(tuned.predict(x), probe(encoder(x)).detach())


def test_what_does_not_fit_is_said_before_training(no_training):
    encoder, x, y = Toy(), torch.randn(8, 4), torch.ones(8, 2)
    for bad, message in (
            (dict(y=y * float('nan')), 'No label is known'),
            (dict(y=y[:, 0]), r'y should have shape \(8, 8\), and has \(8,\)'),
            (dict(y=y * 2), 'should hold 0, 1 and NaN, and holds 2.0'),
            (dict(start=nn.Linear(12, 3)), r'shape \(2, 12\), and has \(3'),
            (dict(start=nn.Linear(9, 2)), r'shape \(2, 12\), and has \(2')):
        with pytest.raises(ReplearnError, match=message):
            tune(encoder, x, **dict(y=y) | bad)


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError('training has begun')
    monkeypatch.setattr('replearn_nb.transfer.finetune.train_on', fail)


def test_finetuning_to_numbers():
    with local_seed(0):
        x, encoder = torch.randn(160, 4), Toy()
    y = torch.stack([x[:, 0] + x[:, 1], -x[:, 2]], 1)
    y[::3, 0] = float('nan')
    tuned = tune(encoder, x[:100], y[:100], 'regression', steps=300, lr=2e-2)
    errors = rmse(y[100:], tuned.predict(x[100:]))
    assert (errors < .5 * np.nanstd(y, 0)).all()


@pytest.mark.parametrize('n', [1, 2, 3])
def test_a_few_molecules_do_not_ruin_the_batch_norms(n):
    with local_seed(0):
        x = torch.randn(30, 4)
        encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    encoder.num_features, encoder.forward_features = 8, encoder.forward
    encoder.train()(x)
    mean = encoder[1].running_mean.clone()
    tuned = tune(encoder, x[:n], (x[:n, :1] > 0).float(), steps=9, lr=1e-2)
    assert torch.equal(tuned.learn.model.encoder[1].running_mean, mean)
    assert tuned.predict(x).isfinite().all()


def test_interval_agrees_with_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(.7, .02, 10), rng.normal(.72, .02, 10)
    df = pd.DataFrame([('scratch', 't', s, v) for s, v in enumerate(a)]
                      + [('p', 't', s, v) for s, v in enumerate(b)],
                      columns='method task seed score'.split())
    row = changes(df).iloc[0]
    interval = ttest_rel(b, a).confidence_interval(.95)
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    ax = plot_changes(changes(df))
    star = '*' if row.low > 0 or row.high < 0 else ''
    assert ax.texts[0].get_text() == f'{100 * (b - a).mean():+.1f}{star}'
    with pytest.raises(ReplearnError, match="no method 'none' to compare"):
        changes(df, 'none')


def noise(rng, tasks, draws, pretrainings=1, shift=0.):
    "Scores without any effect of pre-training, but what each pre-training adds"
    added = shift * rng.normal(size=pretrainings)
    rows = [('scratch', t, s, 0, v) for t in range(tasks)
            for s, v in enumerate(rng.normal(size=draws))]
    rows += [('p', t, s, p, v) for t in range(tasks) for p in range(pretrainings)
             for s, v in enumerate(rng.normal(size=draws) + added[p])]
    return pd.DataFrame(rows, columns='method task seed pretraining score'.split())


def test_one_table_in_twenty_has_a_wrong_star():
    "Of sixteen intervals of 95% more than half of the tables have a wrong one"
    rng = np.random.default_rng(0)
    tables = [changes(noise(rng, 16, 5)) for _ in range(200)]
    assert .01 < np.mean([t.star.any() for t in tables]) < .10
    assert np.mean([((t.low > 0) | (t.high < 0)).any() for t in tables]) > .4


def test_pretrainings_widen_the_interval():
    "With effects of their own, the mean over draws alone misses zero half of the time"
    rng = np.random.default_rng(0)
    frames = [noise(rng, 1, 5, 3, shift=1.) for _ in range(300)]
    missed = [(t.low > 0) | (t.high < 0) for t in map(changes, frames)]
    alone = [changes(f[f.pretraining == 0]) for f in frames]
    assert np.mean(missed) < .10
    assert np.mean([(t.low > 0) | (t.high < 0) for t in alone]) > .2
    row = changes(frames[0]).iloc[0]
    assert (row.seeds, row.pretrainings) == (5, 3)
