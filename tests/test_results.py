"What is committed in docs/results carries what the book and the README say of it"
from pathlib import Path

import pytest

from replearn_nb.transfer.labels import labels_saved, savings
from replearn_nb.transfer.report import Report

results = Path(__file__).resolve().parents[1]/'docs'/'results'


def report(name):
    return Report.load(results/f'{name}-quick.json')


@pytest.mark.parametrize('name', ['simclr', 'bert', 'graphs', 'scaling'])
def test_three_pre_trainings_and_five_draws(name):
    table = report(name).table
    count = table.groupby('method')[['pretraining', 'seed']].nunique()
    ours = count.loc[table[table.pretrained].method.unique()]
    assert len(ours) and (ours.pretraining == 3).all() and (count.seed >= 5).all()


@pytest.mark.parametrize('name, opponents', [
    ('simclr', ['raw+linear', 'raw+knn', 'random+linear', 'scratch',
                'scratch+small_convnet']),
    ('bert', ['tfidf+linear', 'random+linear', 'scratch']),
    ('graphs', ['fingerprint+linear', 'fingerprint+forest', 'groups+linear', 'scratch',
                'random+linear'])])
def test_the_opponents_that_could_win_are_there(name, opponents):
    assert set(opponents) <= set(report(name).table.method)


@pytest.mark.parametrize('name', ['simclr', 'bert', 'graphs'])
def test_the_headline_is_what_the_scores_say(name):
    "Computed from the scores on file by the measure as it is now"
    told = report(name)
    saved = savings(told.few, told.method, told.measure)
    assert saved.items() <= told.headline.items()


def test_simclr_saves_labels_with_one_per_class_and_none_with_ten():
    saved = labels_saved(report('simclr').few, 'simclr+linear').set_index('budget')
    assert saved.low[1] > 2 and saved.high[1] < 5
    assert saved.needed[5] > 5 and saved.low[5] > 4.9
    assert saved.low[10] < 10 < saved.high[10]
    assert set(saved.baseline[[1, 5, 10]]) == {'scratch+small_convnet'}


def test_bert_beats_the_same_network_and_not_word_counts():
    told = report('bert').headline
    assert told['over_scratch@5, low'] > 0 and told['over_scratch@20, low'] > 0
    assert told['over_scratch@80, high'] < .02
    assert told['over_tfidf@20, high'] < 0 and told['over_tfidf@80, high'] < 0


def test_molecules_gain_with_few_labels():
    saved = labels_saved(report('graphs').few, 'supervised+context+linear')
    few = saved.set_index('budget').loc[5]
    assert few.low > 5 and few.ratio < 2
