"What label efficiency promises: paired and nested draws, honest counts of labels saved"
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from replearn_nb.core import ReplearnError
from replearn_nb.transfer.labels import (
    LabelTask,
    Method,
    Metric,
    accuracy,
    best_saving,
    draw_per_class,
    label_efficiency,
    labels_needed,
    labels_saved,
    mean_and_half,
    plot_label_efficiency,
    saving_in_words,
    savings,
    summary,
)

COLUMNS = ['method', 'pretrained', 'budget', 'seed', 'score']
PLAIN = 'raw', 'scratch'  # everything else in these tables is pre-trained


def scores_of(budgets, **draws):
    "Scores from one list a draw, a list of draws a method"
    return pd.DataFrame(
        [(m.replace('_', '+'), m not in PLAIN, b, s, score)
         for m, curves in draws.items() for s, curve in enumerate(curves)
         for b, score in zip(budgets, curve, strict=True)], columns=COLUMNS)


def raw(fit):
    "One method without pre-training"
    return [Method('raw', fit)]


# Draws


@pytest.mark.parametrize('y', [
    np.repeat([3, 7, 9], 40), torch.arange(3).repeat(40),
    ['cat', 'dog', 'a newt'] * 40])
def test_draws_are_balanced_nested_and_seeded(y):
    y_ = np.asarray(y)
    for seed in range(5):
        last = np.array([], int)
        for budget in 1, 2, 5, 40:
            drawn = draw_per_class(y, budget, seed)
            assert len(set(drawn)) == len(drawn) == 3 * budget
            assert all((y_[drawn] == c).sum() == budget for c in np.unique(y_))
            assert (drawn[:len(last)] == last).all()
            assert (drawn == draw_per_class(y, budget, seed)).all()
            last = drawn


def test_every_example_is_drawn_equally_often():
    y = np.repeat([0, 1], [10, 30])
    n = 4000
    count = np.bincount(np.concatenate([draw_per_class(y, 3, s) for s in range(n)]))
    share = np.repeat([.3, .1], [10, 30])
    assert (abs(count / n - share) < 4.5 * (share * (1 - share) / n) ** .5).all()


def test_too_small_a_class_is_named_before_any_training():
    called = []
    task = LabelTask(np.array([0] * 9 + [1] * 3), [0])
    with pytest.raises(ReplearnError, match='class 1 has 3'):
        label_efficiency(task, raw(lambda i, y, s: called.append(i)), [1, 4], 2)
    assert not called


def test_a_task_with_several_labels_draws_in_its_own_way():
    y = np.array([[0, np.nan], [1, 0], [np.nan, 1], [1, 1]])

    def by_row(y, budget, seed):
        return np.random.default_rng(seed).permutation(len(y))[:budget]

    def gap(y_true, prediction):
        return float(np.nanmean(abs(y_true - prediction)))

    task = LabelTask(y, y, Metric('error', gap, False), by_row)
    found = label_efficiency(task, raw(lambda i, y, s: np.zeros((4, 2))), [2], 3,
                             progress=False)
    assert found.score.tolist() == [4 / 6] * 3


# Scores


def test_methods_are_paired_and_see_the_labels_of_their_draw_alone():
    seen = {}

    def method(name):
        def predict(labelled, y, seed):
            assert (y == labelled % 2).all()
            seen.setdefault(name, []).append((seed, labelled.tolist()))
            np.random.rand(len(name)), torch.rand(len(name))  # disturb the generators
            return torch.randint(0, 2, (6,))
        return predict

    task = LabelTask(np.arange(20) % 2, np.arange(6) % 2)
    ours = Method('simclr', method('simclr'), pretrained=True, draws=2)
    both = label_efficiency(task, [Method('raw', method('raw')), ours], [1, 3], 4,
                            progress=False)
    assert list(both.columns) == [*COLUMNS, 'pretraining']
    assert both.groupby('method').pretrained.first().to_dict() == dict(
        raw=False, simclr=True)
    assert both.groupby('method').size().to_dict() == {'raw': 8, 'simclr': 4}
    assert [d for d in seen['raw'] if d[0] < 2] == seen['simclr']
    alone = label_efficiency(task, [ours], [1, 3], progress=False)
    assert alone.score.tolist() == both[both.method == 'simclr'].score.tolist()


def test_generators_are_left_alone():
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    task = LabelTask([0, 1], [0, 1])
    label_efficiency(task, raw(lambda i, y, s: torch.randint(0, 2, (2,))), [1], 3,
                     progress=False)
    assert (state[0] == torch.get_rng_state()).all()
    assert (state[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize('prediction, message', [
    (np.zeros(5), r'raw at 1 labels, draw 0: 5 predictions for 4'),
    (np.zeros((4, 1)), r'\(4, 1\) predictions for \(4,\) labels')])
def test_a_prediction_that_does_not_fit_is_refused(prediction, message):
    task = LabelTask([0, 1], [0, 1, 0, 1])
    with pytest.raises(ValueError, match=message):
        label_efficiency(task, raw(lambda i, y, s: prediction), [1], 1,
                         progress=False)


def test_a_score_that_is_no_number_is_refused():
    task = LabelTask([0, 1], [0, 1], Metric('AUC', lambda y, p: float('nan')))
    with pytest.raises(ValueError, match='raw at 1 labels, draw 0: the AUC is nan'):
        label_efficiency(task, raw(lambda i, y, s: [0, 1]), [1], 1, progress=False)


def test_progress_in_a_log_has_no_control_characters(capfd):
    task = LabelTask([0, 1], [0, 1])
    label_efficiency(task, raw(lambda i, y, s: [0, 1]), [1], 3)
    err = capfd.readouterr().err
    assert 'label efficiency: 3/3' in err and '\x1b' not in err and '\r' not in err


def test_accuracy_takes_tensors_arrays_lists_and_words():
    assert accuracy(torch.tensor([1, 2]), [1, 3]) == .5
    assert accuracy(['a', 'b'], np.array(['a', 'b'])) == 1
    assert accuracy([1], torch.ones(1, requires_grad=True)) == 1


def test_summary_is_pandas_own_mean_and_sd():
    rng = np.random.default_rng(0)
    df = scores_of([1, 2, 16], raw=rng.random((5, 3)), simclr_linear=rng.random((3, 3)))
    table = summary(df)
    assert list(table.columns) == ['draws', 1, 2, 16]
    assert table.draws.to_dict() == {'raw': '5', 'simclr+linear': '3'}
    some = df[(df.method == 'raw') & (df.budget == 2)].score
    assert table.loc['raw', 2] == f'{some.mean():.3f} ±{some.std():.3f}'


# Labels saved


def slow_needed(budgets, scores, target):
    "Walk along the curve in small steps"
    for step in np.linspace(0, np.log2(budgets[-1] / budgets[0]), 200_001):
        labels = budgets[0] * 2 ** step
        highest = [max(scores[:i + 1]) for i in range(len(scores))]
        if np.interp(np.log2(labels), np.log2(budgets), highest) >= target:
            return labels
    return np.inf


def test_labels_needed_is_where_a_walk_along_the_curve_gets_there():
    rng = np.random.default_rng(0)
    budgets = np.array([1, 2, 5, 10, 50])
    for _ in range(15):
        scores, target = rng.random(5), rng.random() * 1.1
        fast = labels_needed(budgets, scores, target)
        highest = np.maximum.accumulate(scores)
        slow = np.inf if target > highest[-1] else 2 ** np.interp(
            target, highest + 1e-12 * np.arange(5), np.log2(budgets))
        slow = 0 if target <= scores[0] else slow
        assert fast == pytest.approx(slow, rel=1e-6)
    scores = np.array([.2, .5, .4, .5, .9])
    for target in .3, .5, .7, .9, .95:
        walked = slow_needed(budgets, scores, target)
        assert labels_needed(budgets, scores, target) == pytest.approx(walked, rel=1e-3)


def test_labels_needed_of_many_curves_at_once():
    rng = np.random.default_rng(0)
    budgets, scores, target = np.array([1, 4, 16]), rng.random((50, 3)), rng.random(50)
    each = [labels_needed(budgets, s, t) for s, t in zip(scores, target, strict=True)]
    assert labels_needed(budgets, scores, target) == pytest.approx(np.array(each))


def test_a_constant_curve_needs_at_most_its_first_budget_or_more_than_all():
    assert labels_needed(np.array([1, 8]), np.array([.5, .5]), .5) == 0
    assert labels_needed(np.array([1, 8]), np.array([.5, .5]), .5001) == np.inf
    assert labels_needed(np.array([4]), np.array([.5]), .1) == 0


def test_labels_saved_by_hand():
    df = scores_of([1, 4, 16], simclr_linear=[[.7, .8, .95]], raw=[[.5, .6, .8]],
                   scratch=[[.4, .7, .75]])
    saved = labels_saved(df)
    assert saved.method.tolist() == ['simclr+linear'] * 3
    assert saved.baseline.tolist()[:2] == ['scratch', 'raw']
    assert saved.needed.tolist() == [4, 16, np.inf]
    assert saved.ratio.tolist() == [4, 4, np.inf]
    assert labels_saved(df, 'raw').ratio.iloc[0] == 0  # itself, at most
    assert saved.low.isna().all() and saved.high.isna().all()  # one draw


def test_of_errors_less_is_better():
    "The mirror image: the same labels are saved, and harm stays harm"
    error = Metric('error', None, higher_is_better=False)
    df = scores_of([1, 4, 16], simclr_linear=[[.7, .8, .95]] * 5,
                   raw=[[.5, .6, .8]] * 5)
    mirrored = df.assign(score=1 - df.score)
    a, b = labels_saved(df), labels_saved(mirrored, metric=error)
    pd.testing.assert_frame_equal(a.drop(columns='score'), b.drop(columns='score'))
    assert b.score.tolist() == pytest.approx((1 - a.score).tolist())
    both = pd.concat([mirrored, mirrored[mirrored.pretrained].assign(
        method='worse', score=.9)])
    assert best_saving(both, metric=error).method == 'simclr+linear'
    assert savings(mirrored, 'simclr+linear', error) == savings(df, 'simclr+linear')


def test_nothing_is_extrapolated():
    "A baseline measured at fewer budgets bounds what can be claimed"
    df = pd.concat([scores_of([1, 4, 16], simclr=[[.9, .9, .9]], raw=[[.1, .2, .3]]),
                    scores_of([1, 4], scratch=[[.1, .2]])])
    first = labels_saved(df).iloc[0]
    assert (first.needed, first.most) == (np.inf, 4)
    df = pd.concat([scores_of([1, 4, 16], simclr=[[.25] * 3], raw=[[.1, .2, .3]]),
                    scores_of([1, 4], scratch=[[.1, .2]])])
    first = labels_saved(df).iloc[0]  # raw needs 8; what scratch has with 5 is unknown
    assert (first.needed, first.most) == (np.inf, 4)
    assert saving_in_words(first) == 'more than 4'


def test_what_is_censored_stays_censored():
    df = scores_of([5, 20], simclr=[[.5, .9]] * 5, raw=[[.7, .8]] * 5)
    low, high = (saving_in_words(row) for _, row in labels_saved(df).iterrows())
    assert (low, high) == ('at most 1', 'more than 1')
    assert savings(df, 'simclr') == {
        'labels_saved@5': 'at most 1', 'labels_saved@20': 'more than 1'}
    wide = scores_of([1, 10, 50], raw=[[.5, .6, .8]] * 6,
                     simclr=[[.5, .79 + d, .9] for d in (-.03, -.02, 0, .01, .02, .02)])
    row = best_saving(wide, 10)
    assert np.isinf(row.high) and 10 < row.low < row.needed < 50
    assert saving_in_words(row).endswith('to more than 5)')


def test_all_labels_are_no_budget_to_save_from():
    df = scores_of([0, 1, 4], simclr=[[.9, .7, .8]], raw=[[.9, .5, .7]])
    assert labels_saved(df).budget.tolist() == [1, 4]
    assert best_saving(df[df.budget == 0]) is None


def test_the_interval_is_paired():
    "Draws that are easy for all methods alike add no doubt to the comparison"
    rng = np.random.default_rng(1)
    luck = rng.normal(0, .05, (12, 1))
    base, ours = np.array([.5, .6, .7]), np.array([.6, .7, .72])
    paired = scores_of([1, 4, 16], simclr=ours + luck, raw=base + luck)
    row = labels_saved(paired).iloc[0]
    assert row.needed == pytest.approx(4)
    assert row.high - row.low < .02
    apart = scores_of([1, 4, 16], simclr=ours + luck,
                      raw=base + rng.normal(0, .05, (12, 1)))
    row = labels_saved(apart).iloc[0]
    assert row.low < row.needed < row.high


def table(name, scores):
    "Scores (draws, pre-trainings, budgets) as a table"
    draws, pretrainings, _ = scores.shape
    return pd.DataFrame(
        [(name, name not in PLAIN, b, d, p, scores[d, p, i]) for d in range(draws)
         for p in range(pretrainings) for i, b in enumerate((1, 4, 16))],
        columns=['method', 'pretrained', 'budget', 'seed', 'pretraining', 'score'])


@pytest.mark.parametrize('draws, pretrainings, sd', [
    (5, 1, (.03, 0, 0)), (5, 3, (.03, 0, .01)), (5, 3, (.01, .03, .01)),
    (5, 3, (.02, .02, .02)), (10, 1, (.03, 0, 0)), (10, 3, (.02, .01, .01))])
@pytest.mark.parametrize('baselines', [1, 2])
def test_the_interval_covers_the_truth(draws, pretrainings, sd, baselines):
    "At the draws that presets use; sd of draws, of pre-trainings, of both together"
    rng, n, hits = np.random.default_rng(0), 200, 0
    for _ in range(n):
        def ours(size, scale):
            return rng.normal(0, scale, size)
        raw = [table(m, np.array([.5, .6, .7]) + ours((draws, 1, 3), sd[0]))
               for m in ('raw', 'scratch')[:baselines]]
        rep = np.array([.6, .7, .75]) + ours((draws, 1, 3), sd[0]) + ours(
            (1, pretrainings, 3), sd[1]) + ours((draws, pretrainings, 3), sd[2])
        rep = table('simclr', rep)
        row = labels_saved(pd.concat([*raw, rep[rep.budget == 1]])).iloc[0]
        hits += row.low <= 4 <= row.high  # .6 is what the baselines have with 4
    assert .9 <= hits / n <= .995


def test_below_five_draws_there_is_no_interval():
    rng = np.random.default_rng(0)
    for n in 4, 5:
        df = scores_of([1, 4], simclr=rng.random((n, 2)), raw=rng.random((n + 5, 2)))
        assert labels_saved(df).low.isna().all() == (n < 5)
        assert ('to' in saving_in_words(labels_saved(df).iloc[0])) == (n == 5)


def test_methods_are_compared_on_the_draws_that_both_have():
    df = scores_of([1, 4, 16], simclr=[[.7, .8, .9]] * 2, raw=[[.5, .6, .8]] * 2 + [
        [.9, .9, .9]] * 8)
    assert labels_saved(df).needed.iloc[0] == pytest.approx(8)
    df = df[~((df.method == 'raw') & (df.budget == 1) & (df.seed == 1))]
    assert labels_saved(df).needed.iloc[0] == pytest.approx(8)


def test_mean_and_half_of_a_two_way_table():
    "Expected mean squares: the estimate of the variance of the mean is unbiased"
    rng = np.random.default_rng(0)
    means, halves = [], []
    for _ in range(4000):
        x = (rng.normal(0, 2, (6, 1)) + rng.normal(0, 1.5, (1, 4))
             + rng.normal(0, 1, (6, 4)))
        mean, half = mean_and_half(x[..., None])
        means.append(mean[0]), halves.append(half[0])
    truth = 4 / 6 + 1.5 ** 2 / 4 + 1 / 24
    assert np.var(means) == pytest.approx(truth, rel=.08)
    assert .93 <= np.mean(np.abs(means) <= halves) <= .98


def test_without_baselines_there_is_a_sentence():
    df = scores_of([1], simclr=[[.5]])
    with pytest.raises(ReplearnError, match='no method without pre-training among sim'):
        labels_saved(df)
    assert best_saving(df) is None
    assert best_saving(df.iloc[:0]) is None


def test_best_saving_takes_the_fewest_labels_and_the_method_that_is_named():
    df = scores_of([1, 10, 50], simclr_knn=[[.7, .8, .9]],
                   simclr_linear=[[.6, .85, .9]], raw=[[.5, .6, .8]])
    row = best_saving(df)
    assert (row.budget, row.method) == (1, 'simclr+knn')  # the mean over budgets
    assert best_saving(df, 50).method == 'simclr+knn'  # whatever the budget
    assert best_saving(df, 10, 'simclr+linear').score == .85


# The figure


def test_names_at_line_ends_do_not_overlap():
    names = [f'm{i}+linear' for i in range(9)] + ['raw+linear', 'scratch']
    df = pd.DataFrame([(n, i < 9, b, s, .9 + .001 * i + .01 * b)
                       for i, n in enumerate(names) for b in (1, 2) for s in (0, 1)],
                      columns=COLUMNS)
    fig = Figure(figsize=(7, 4.2), layout='constrained')
    ax = plot_label_efficiency(df, fig.subplots())
    FigureCanvasAgg(fig).draw()
    boxes = [t.get_window_extent() for t in ax.texts if t.get_text() in names]
    assert len(boxes) == len(names)
    boxes.sort(key=lambda b: b.y0)
    for a, b in zip(boxes, boxes[1:], strict=False):
        assert a.y1 - 3 <= b.y0  # boxes hold room below the letters
    assert max(b.x1 for b in boxes) <= fig.bbox.x1


def test_the_arrow_runs_from_the_budget_to_what_is_needed():
    df = scores_of([1, 10, 50], simclr=[[.7, .8, .9]], raw=[[.5, .6, .85]])
    fig = Figure()
    ax = plot_label_efficiency(df, fig.subplots(), arrow=10)
    needed = best_saving(df, 10).needed
    assert needed == pytest.approx(10 * 5 ** .8)
    arrow, = [t for t in ax.texts if t.get_text() == '']
    assert arrow.xyann == (10, pytest.approx(.8))
    assert arrow.xy == (pytest.approx(needed), pytest.approx(.8))
    assert f'{needed / 10:.1f}× the labels' in [t.get_text() for t in ax.texts]
    lines = {True: [], False: []}
    for line in ax.lines:
        if len(line.get_xdata()) == 3:
            lines[line.get_linestyle() == '-'].append(line)
    assert len(lines[True]) == len(lines[False]) == 1  # solid: pre-trained


@pytest.mark.parametrize('simclr, text, end', [
    ([[.1, .2]] * 5, 'at most 0.1× the labels', 1), ([[.1, .56]] * 5, '0.4×', 10 ** .6),
    ([[.7, .9]] * 5, 'more than 1× the labels', 10)])
def test_harm_is_as_visible_as_gain(simclr, text, end):
    df = scores_of([1, 10], simclr=simclr, raw=[[.5, .6]] * 5)
    ax = plot_label_efficiency(df, Figure().subplots(), arrow=10)
    assert [t for t in ax.texts if t.get_text().startswith(text)]
    arrow, = [t for t in ax.texts if t.get_text() == '']
    assert arrow.xy[0] == pytest.approx(end) and arrow.xyann[0] == 10
