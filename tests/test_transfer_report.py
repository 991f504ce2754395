"A report is written whole or not at all, and read back equal or refused in a sentence"
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from replearn_nb.core import ReplearnError
from replearn_nb.transfer.report import (
    Report,
    command_line,
    device_name,
    sentences,
    versions,
)

def a_report(**changes):
    curves = {'raw+linear': [.5, .7, .9], 'scratch': [.4, .7, .95],
              'simclr+linear': [.8, .9, .97]}
    scores = [dict(method=m, pretrained='simclr' in m, budget=b, seed=s, pretraining=0,
                   score=score + .01 * s)
              for m, curve in curves.items()
              for b, score in zip([1, 10, 50], curve, strict=True) for s in range(3)]
    return Report(**dict(
        recipe='simclr', preset='quick', data='digits', device='cpu, 2 threads', seed=0,
        seconds=dict(pretrain=60., transfer=20., total=81.), scores=scores,
        method='simclr+linear', headline={'labels_saved@10': '3.6'}) | changes)


def test_the_file_is_what_the_issue_asks_for(tmp_path):
    report = a_report(command='replearn run simclr')
    data = json.loads(report.save(tmp_path/'new'/'folder').read_text())
    assert list(data) == ['recipe', 'preset', 'data', 'device', 'seed', 'command',
                          'versions', 'seconds', 'metric', 'higher_is_better', 'unit',
                          'axis', 'scores', 'method', 'headline', 'tables', 'shown']
    assert list(data['seconds']) == ['pretrain', 'transfer', 'total']
    assert list(data['scores'][0]) == [
        'method', 'pretrained', 'budget', 'seed', 'pretraining', 'score']
    assert {'python', 'torch', 'fastai', 'replearn_nb',
            'numpy'} <= set(data['versions'])
    assert sorted(p.name for p in report.folder.iterdir()) == ['figure.png',
                                                               'report.json']
    with Image.open(report.folder/'figure.png') as image:
        assert min(image.size) > 500


def test_all_labels_are_a_budget_of_0(tmp_path):
    scores = [s | dict(budget=0) for s in a_report().scores if s['budget'] == 50]
    report = a_report(scores=scores)
    assert sentences(report) == ['labels_saved@10: 3.6']
    assert ['method', 'draws', 'all'] in [o.split() for o in str(report).splitlines()]
    assert '<th>all</th>' in report._repr_html_()
    ax, = report.figure().axes
    assert ax.get_xlabel() == 'accuracy with all labels'
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        'raw+linear', 'scratch', 'simclr+linear']
    report.save(tmp_path)
    assert Report.load(tmp_path) == report


def test_nothing_is_saved_where_only_one_budget_is_measured():
    report = a_report(scores=[s for s in a_report().scores if s['budget'] == 10])
    assert sentences(report)[0].endswith(
        'any method without pre-training needs more than 10: more than 1 times as '
        'many.')


def test_a_round_trip_is_equal(tmp_path):
    report = a_report(headline={'n': 1, 'ratio': 1 / 3})
    report.save(tmp_path)
    assert Report.load(tmp_path) == Report.load(str(tmp_path/'report.json')) == report
    assert Report.load(tmp_path).table.equals(report.table)


def test_numbers_of_numpy_and_torch_become_plain(tmp_path):
    numbers = dict(a=np.float32(.5), b=np.int64(3), c=torch.tensor(2.))
    report = a_report(headline=numbers)
    report.save(tmp_path)
    assert Report.load(tmp_path).headline == dict(a=.5, b=3, c=2)


@pytest.mark.parametrize('changes, named', [
    (dict(headline=dict(ratio=float('nan'))), 'headline: ratio is nan'),
    (dict(seconds=dict(total=float('inf'))), 'seconds: total is inf'),
    (dict(scores=[dict(method='raw', pretrained=False, budget=1, seed=0, pretraining=0,
                       score=np.nan)]),
     'score 0: score is nan'),
    (dict(tables=dict(runs=[1, 2])), 'runs in tables is no table'),
    (dict(scores=[dict(method='raw', budget=1, seed=0, pretraining=0, score=1)]),
     'score 0: it has no pretrained')])
def test_what_json_does_not_know_is_refused_and_nothing_is_written(
        tmp_path, changes, named):
    with pytest.raises(ReplearnError, match=named):
        a_report(**changes).save(tmp_path/'out')
    assert not list(tmp_path.iterdir())


def test_a_fault_while_writing_leaves_the_old_report(tmp_path, monkeypatch):
    a_report(seed=1).save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('matplotlib.figure.Figure.savefig', full)
    with pytest.raises(ReplearnError, match="Can't write .*No space left"):
        a_report(seed=2).save(tmp_path)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(ReplearnError, match="Can't write"):
        a_report().save(tmp_path/'file')


@pytest.mark.parametrize('change, named', [
    (lambda t: t[:len(t) // 2], 'is damaged: '),
    (lambda t: '', 'is damaged: '),
    (lambda t: '\ud800', 'is damaged: '),
    (lambda t: '[1]', 'it holds no JSON object'),
    (lambda t: t.replace('"recipe"', '"recepie"', 1), 'it has no recipe'),
    (lambda t: t.replace('{', '{"speed": 1,', 1), 'it has speed, which is unknown'),
    (lambda t: t.replace('"budget": 10', '"budget": "ten"', 1), 'budget is .ten.'),
    (lambda t: t.replace('"scores": [', '"scores": [3, ', 1), '0: it has no method'),
    (lambda t: t.replace('"quick"', 'null', 1), 'preset is None'),
    (lambda t: t.replace('81.0', 'Infinity', 1), 'total is inf')])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, change, named):
    path = a_report().save(tmp_path)
    path.write_text(change(path.read_text()), errors='surrogatepass')
    with pytest.raises(ReplearnError, match=named) as e:
        Report.load(tmp_path)
    assert str(path) in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('path', ['none.json', 'empty'])
def test_a_missing_file_is_named(tmp_path, path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(ReplearnError, match="Can't read .*No such file"):
        Report.load(tmp_path/path)


def test_binary_rubbish_is_refused(tmp_path):
    (tmp_path/'report.json').write_bytes(bytes(range(256)))
    with pytest.raises(ReplearnError, match='is damaged'):
        Report.load(tmp_path)


# What it says


def test_the_headline_sentence():
    said = sentences(a_report())[0]
    assert said == (  # .81 lies .4 of the way from .71 to .96: 10 * 5 ** .4
        'With 1 label per class simclr+linear reaches 0.810 accuracy; the best method '
        'without pre-training (scratch) needs 19: 19 times as many.')


def test_harm_is_said_and_an_interval_says_what_it_covers():
    scores = [dict(method=m, pretrained='simclr' in m, budget=b, seed=s, pretraining=p,
                   score=score + .001 * (s - 2) * (p - 1))
              for m, curve, pretrainings in (
                  ('raw+linear', [.5, .7, .9], 1), ('simclr+linear', [.3, .6, .8], 3))
              for b, score in zip([1, 10, 50], curve, strict=True)
              for s in range(5) for p in range(pretrainings)]
    said = sentences(a_report(scores=scores))[0]
    assert 'needs at most 1' in said and said.endswith(
        'at most 1 times as many. The range is a 95% interval over 5 draws of labels '
        'and 3 pre-trainings, on one test set. No network was trained from scratch to '
        'compare with.')
    assert 'no more' not in said


def test_the_method_named_beforehand_is_told_though_another_did_better():
    report = a_report(method='simclr+linear')
    better = [dict(o, method='simclr+knn', score=.99) for o in report.scores
              if o['method'] == 'simclr+linear']
    report.scores += better
    assert report.saving.method == 'simclr+linear'


def test_without_pre_training_only_the_numbers_are_said():
    report = a_report()
    report.scores = [row for row in report.scores if 'simclr' not in row['method']]
    assert sentences(report) == ['labels_saved@10: 3.6']


def test_a_report_without_scores_can_be_saved_and_shown(tmp_path, recwarn):
    report = a_report(scores=[])
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    assert 'labels_saved@10' in str(report) and 'labels_saved' in report._repr_html_()
    assert not [w for w in recwarn if 'layout' in str(w.message)]


def test_nothing_is_cut_off_at_80_columns():
    text = io.StringIO()
    a_report().show(Console(file=text, width=80))
    assert '\x1b' not in text.getvalue() and '…' not in text.getvalue()
    assert all(len(line) <= 80 for line in text.getvalue().splitlines())
    for name in 'raw+linear', 'scratch', 'simclr+linear', '0.910', '±0.010', '81.0 s':
        assert name in text.getvalue()


def test_html_is_escaped():
    assert '<script>' not in a_report(headline={'<script>': 1})._repr_html_()


# Where it comes from


def test_the_command_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/opt/bin/replearn', 'run', 'simclr', '--data',
                                      'my photos'])
    assert command_line() == "replearn run simclr --data 'my photos'"
    monkeypatch.setattr(sys, 'argv', ['/opt/ipykernel_launcher.py', '-f', '/x/k.json'])
    assert command_line() == 'a notebook'


def test_versions_and_device():
    assert versions()['torch'] == torch.__version__
    assert versions()['numpy'] == np.__version__
    assert device_name(torch.device('cpu')).startswith('cpu, ')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_is_named():
    assert device_name('cuda') == torch.cuda.get_device_name()
