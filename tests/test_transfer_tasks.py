"Many tasks with missing labels: scores beside scikit-learn, draws, fits, changes"
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.transfer.probes import LinearProbe
from replearn_nb.transfer.tasks import (
    changes,
    draw_entries,
    finetune_tasks,
    mean_minus_rmse,
    mean_roc_auc,
    minus_rmse,
    only,
    plot_changes,
    probe_tasks,
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
    y = torch.tensor(labels[0], dtype=torch.float32)
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    y[:200, 3] = (x[:200, 3] > 0).float()  # only here is there anything to learn
    y[200:, 3] = float('nan')  # and nothing to choose the strength on
    data = x[:200], y[:200], x[200:], y[200:]
    together = probe_tasks(*data)
    assert not any(p.requires_grad for p in together.parameters())
    for t in range(3):
        a, b = (part[:, t].isfinite() for part in (data[1], data[3]))
        alone = LinearProbe.fit(x[:200][a], y[:200][a, t].long(), x[200:][b],
                                y[200:][b, t].long())
        odds = alone.logits(x) @ torch.tensor([-1., 1], dtype=torch.float64)
        torch.testing.assert_close(together(x)[:, t], odds.float(), atol=1e-4, rtol=0)
    assert task_scores(y[:200], together(x[:200]))[3] > .95
    assert (together(x)[:, 4] == 0).all()


def ridge(x, y, alpha):
    "Least squares with a row for each weight that pulls it to zero; not the bias"
    scale, n, d = x.std(0), *x.shape
    rows = np.block([[x / scale, np.ones((n, 1))],
                     [alpha ** .5 * np.eye(d), np.zeros((d, 1))]])
    *weight, bias = np.linalg.lstsq(rows, np.r_[y, np.zeros(d)], rcond=None)[0]
    return lambda new: new / scale @ weight + bias


def test_probe_of_numbers_is_the_best_ridge_regression():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=g) * torch.tensor([1., 9, 1, 1, 1, .1]) + 5
    y = x[:, :2] @ torch.randn(2, 1, generator=g) + torch.randn(90, 1, generator=g) * 20
    layer = probe_tasks(x[:60], y[:60], x[60:], y[60:], kind='regression')
    a, b = x.double().numpy(), y[:, 0].double().numpy()
    fits = [ridge(a[:60], b[:60], 10. ** k) for k in range(-2, 5)]
    errors = [((f(a[60:]) - b[60:]) ** 2).mean() for f in fits]
    assert 0 < np.argmin(errors) < 6  # neither the weakest nor the strongest
    best = fits[np.argmin(errors)]
    assert layer(x)[:, 0].numpy() == pytest.approx(best(a), abs=1e-2)


def test_scores_of_numbers():
    y = np.array([[1., np.nan, np.nan], [3, 5, np.nan]])
    prediction = np.array([[2., 9, 9], [5, 2, 9]])
    assert minus_rmse(y, prediction) == pytest.approx(
        [-(2.5 ** .5), -3, np.nan], nan_ok=True)
    assert mean_minus_rmse(y, prediction) == pytest.approx(-(2.5 ** .5 + 3) / 2)
    drawn = draw_entries(y[:, :2], 1, 0, 'regression')
    assert len(drawn) == 2 and np.isfinite(y[:, :2].ravel()[drawn]).all()
    with pytest.raises(ReplearnError, match='training; task 1 has 1'):
        draw_entries(y[:, :2], 2, 0, 'regression')


class Toy(nn.Module):
    num_features = 12

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 12), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def test_finetuning_repeats_and_leaves_the_encoder_alone():
    with local_seed(0):
        x, encoder = torch.randn(80, 4), Toy()
    y = (x[:, :2] > 0).float()
    y[::2, 0], y[1::3, 1] = float('nan'), float('nan')
    before = [p.clone() for p in encoder.parameters()]
    a, b = (finetune_tasks(encoder, x[:60], y[:60], x[60:], y[60:], steps=30, lr=1e-2,
                           seed=1, device='cpu').predict(x) for _ in range(2))
    assert torch.equal(a, b) and mean_roc_auc(y, a) > .8
    assert all(map(torch.equal, before, encoder.parameters()))
    with pytest.raises(ReplearnError, match='No label is known'):
        finetune_tasks(encoder, x, torch.full((80, 2), float('nan')), x, y)


def test_finetuning_to_numbers():
    with local_seed(0):
        x, encoder = torch.randn(160, 4), Toy()
    y = torch.stack([x[:, 0] + x[:, 1], -x[:, 2]], 1)
    y[::3, 0] = float('nan')
    tuned = finetune_tasks(encoder, x[:100], y[:100], x[100:130], y[100:130], steps=300,
                           lr=2e-2, device='cpu', kind='regression')
    errors = minus_rmse(y[130:], tuned.predict(x[130:]))
    assert (errors > -.5 * np.nanstd(y, 0)).all()


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
