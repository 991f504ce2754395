"The recipe of chapter SimCLR: what it refuses at once, and a card that says little"
import pytest
import torch
from PIL import Image

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.images import digits
from replearn_nb.pretext.base import pretrain
from replearn_nb.recipes import simclr
from replearn_nb.representation import Representation

@pytest.fixture
def flat(tmp_path):
    "A folder of thirty images without labels"
    (tmp_path/'flat').mkdir()
    for i in range(30):
        Image.new('L', (8, 8), 8 * i).save(tmp_path/'flat'/f'{i}.png')
    return tmp_path/'flat'


def refused(fn, *args, **kwargs):
    with pytest.raises(ReplearnError) as e:
        fn(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)


@pytest.fixture(scope='module')
def rep():
    "Saved as a Learner's, without a name of its pretext task"
    splits, device = digits(), torch.device('cpu')
    with local_seed(0):
        learn = simclr.make_learner(splits, simclr.settings('quick'), device)
    return Representation.from_learner(pretrain(learn, 1, 1e-3))


@pytest.mark.parametrize('options, says', [
    (dict(size=0), 'size must be above 0, not 0'),
    (dict(size=-5), 'size must be above 0, not -5'),
    (dict(data=''), "There is no folder ''"),
    (dict(data='mnist'), 'there are: digits, fashion_mnist, cifar10'),
    (dict(bs=1), 'bs must be 2 or more, not 1'),
    (dict(monitor=True), 'flat has no labels for --monitor'),
])
def test_refused_before_training(flat, tmp_path, monkeypatch, options, says):
    monkeypatch.setattr(simclr, 'make_learner', None)
    options = dict(data=str(flat), device='cpu', out=tmp_path/'out') | options
    assert says in refused(simclr.run, **options)
    assert not (tmp_path/'out').exists()


def test_two_labels_in_all(flat, tmp_path, rep):
    labels = tmp_path/'labels.csv'
    labels.write_text('file,label\n0.png,a\n1.png,b\n')
    says = "flat has no image of 'a' left to train on"
    options = dict(data=str(flat), labels=str(labels), device='cpu', out=tmp_path/'out')
    assert says in refused(simclr.run, **options)
    assert says in refused(simclr.transfer, rep, **options)


def test_transfer_without_a_name_on_the_card(rep, tmp_path, monkeypatch):
    small = simclr.PRESETS['quick'] | dict(budgets=(1, 2), draws=1)
    monkeypatch.setitem(simclr.PRESETS, 'quick', small)
    rep = Representation.load(rep.save(tmp_path/'rep'))
    report = simclr.transfer(rep, 'digits', out=tmp_path/'out', device='cpu')
    assert {'representation+linear', 'representation+knn'} <= {
        s['method'] for s in report.scores}
