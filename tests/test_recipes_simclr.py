"The recipe of chapter SimCLR: what it refuses, what it compares, what it may look at"
import numpy as np
import pytest
import torch
from PIL import Image

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.images import digits, own_images
from replearn_nb.experiment import split_seed
from replearn_nb.pretext.base import pretrain
from replearn_nb.recipes import simclr
from replearn_nb.representation import Representation

TINY = simclr.PRESETS['tiny']


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
        learn = simclr.make_learner(splits, TINY, device)
    return Representation.from_learner(pretrain(learn, 1, 1e-3))


@pytest.mark.parametrize('options, says', [
    (dict(data=''), "There is no folder ''"),
    (dict(data='mnist'), 'there are: digits, fashion_mnist, cifar10'),
    (dict(data='digits', labels='l.csv'), 'digits has its own labels'),
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
    says = 'flat has 2 images in 2 classes, and none is left to train on'
    options = dict(data=str(flat), labels=str(labels), device='cpu', out=tmp_path/'out')
    assert says in refused(simclr.run, **options)
    assert says in refused(simclr.transfer, rep, **options)


def test_transfer_without_a_name_on_the_card(rep, tmp_path, monkeypatch):
    monkeypatch.setitem(simclr.PRESETS, 'quick', TINY)
    rep = Representation.load(rep.save(tmp_path/'rep'))
    report = simclr.transfer(rep, data='digits', out=tmp_path/'out', device='cpu')
    assert {'representation+linear', 'representation+knn'} <= set(report.table.method)
    assert report.method == 'representation+linear'


def test_no_method_looks_at_a_label_beside_its_budget(rep):
    "All other labels, of training, validation and test images, may as well be wrong"
    splits, device = digits(), torch.device('cpu')
    labelled = np.arange(40)
    y = splits.part('train')[1][labelled]
    wrong = digits()
    wrong.images.y = (wrong.images.y + 3) % 10
    both = (simclr.methods(dict(rep=rep), 0, o, TINY, device) for o in (splits, wrong))
    names = []
    for here, there in zip(*both, strict=True):
        predicted = []
        for method in here, there:
            with local_seed(0):
                predicted.append(method.fit(labelled, y, 0))
        assert torch.equal(*predicted), here.name
        names.append(here.name)
    assert names == [*PIXELS, 'random+linear', 'representation+knn',
                     'representation+linear', 'representation+finetune', *SCRATCH]


PIXELS, SCRATCH = ['raw+linear', 'raw+knn'], ['scratch', 'scratch+small_convnet']


def test_several_pre_trainings_enter_the_scores(tmp_path):
    report = simclr.run('tiny', out=tmp_path, device='cpu', seeds=2)
    count = report.table.groupby('method').pretraining.nunique().to_dict()
    assert count == dict.fromkeys(PIXELS + SCRATCH, 1) | dict.fromkeys([
        'random+linear', 'simclr+knn', 'simclr+linear', 'simclr+finetune'], 2)
    first, second = (Representation.load(tmp_path/o)
                     for o in ('representation', 'others/seed-1'))
    assert first.card['seed'] == 0 and second.card['seed'] == 1
    assert first.card['sha256'] != second.card['sha256']
    assert first.card['data'] == second.card['data']
    linear = report.table[report.table.method == 'simclr+linear']
    assert linear.groupby('pretraining').score.mean().nunique() == 2


def test_only_what_pre_training_saw_is_split_as_it_was(capfd):
    "The card names the data and the seed of their split"
    rep = Representation(simclr.strided_convnet(1), None, dict(
        data=dict(hash=digits(seed=4).hash, split_seed=4)))
    assert split_seed(rep, digits(seed=1).hash, 1) == 4
    assert 'they are split with seed 4 again' in capfd.readouterr().err
    assert split_seed(rep, 'of other data', 1) == 1
    assert not capfd.readouterr().err
    assert not set(digits(seed=4).test.tolist()) & set(
        digits(seed=4).unlabelled.tolist())


def test_photographs_in_a_folder_called_digits_get_views_of_photographs(tmp_path):
    folder = tmp_path/'digits'
    for c in 'ab':
        (folder/c).mkdir(parents=True)
        for i in range(20):
            Image.new('RGB', (32, 32), (i, 9 * i, 5)).save(folder/c/f'{i}.png')
    photos = simclr.make_views(own_images(str(folder), size=32))
    assert repr(photos) != repr(simclr.make_views(digits()))
    assert 'Jitter' in repr(photos) or 'Colour' in repr(photos)


def test_the_random_network_is_fitted_to_a_sample_not_to_the_first_rows(rep):
    "Folders are read class by class: the first rows are of one class"
    x = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(4096)
    x = x.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    norm = next(m for m in simclr.random_encoder(rep, x).encoder.modules()
                if isinstance(m, torch.nn.BatchNorm2d))
    one, half = (next(m for m in simclr.random_encoder(rep, o).encoder.modules()
                      if isinstance(m, torch.nn.BatchNorm2d)).running_mean
                 for o in (x[:4096], x[::64]))
    assert (norm.running_mean - half).abs().max() < (one - half).abs().max() / 4
