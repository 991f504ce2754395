"The recipe of chapter SimCLR: what it refuses at once, and a card that says little"
import numpy as np
import pytest
import torch
from PIL import Image

from replearn_nb.core import ReplearnError, local_seed
from replearn_nb.data.images import digits, own_images
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
    (dict(bs=1), 'bs must be 2 or more and seeds 1 or more, not 1 and 1'),
    (dict(seeds=0), 'seeds 1 or more, not 256 and 0'),
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
    small = simclr.PRESETS['quick'] | dict(budgets=(1, 2), draws=1)
    monkeypatch.setitem(simclr.PRESETS, 'quick', small)
    rep = Representation.load(rep.save(tmp_path/'rep'))
    report = simclr.transfer(rep, 'digits', out=tmp_path/'out', device='cpu')
    assert {'representation+linear', 'representation+knn'} <= {
        s['method'] for s in report.scores}


@pytest.fixture
def tiny(monkeypatch):
    small = dict(epochs=1, steps=2, scratch_steps=2, budgets=(1, 2), draws=5)
    monkeypatch.setitem(simclr.PRESETS, 'quick', simclr.PRESETS['quick'] | small)
    return simclr.settings('quick')


def all_methods(splits, rep, cfg):
    device = torch.device('cpu')
    return (simclr.pixel_methods(splits, rep, device)
            | simclr.frozen_methods(splits, rep, 0, device)
            | simclr.scratch_methods(splits, rep, cfg, device)
            | {'finetune': simclr.finetune_method(splits, rep, cfg, device)})


def test_no_method_looks_at_a_label_beside_its_budget(rep, tiny):
    "All other labels, of training, validation and test images, may as well be wrong"
    splits = digits()
    labelled = np.arange(40)
    y = splits.part('train')[1][labelled]
    wrong = digits()
    wrong.images.y = (wrong.images.y + 3) % 10
    for name, method in all_methods(splits, rep, tiny).items():
        with local_seed(0):
            here = method(labelled, y, 0)
        with local_seed(0):
            there = all_methods(wrong, rep, tiny)[name](labelled, y, 0)
        assert torch.equal(here, there), name


def test_several_pre_trainings_enter_the_scores(tiny, tmp_path):
    report = simclr.run(out=tmp_path, device='cpu', seeds=2)
    count = report.table.groupby('method').pretraining.nunique().to_dict()
    assert {m: n for m, n in count.items() if n == 2} == dict.fromkeys([
        'random+linear', 'simclr+knn', 'simclr+linear', 'simclr+finetune'], 2)
    assert {'raw+linear', 'raw+knn', 'scratch', 'scratch+small_convnet'} <= set(count)
    first, second = (Representation.load(tmp_path/o)
                     for o in ('representation', 'others/seed-1'))
    assert first.card['seed'] == 0 and second.card['seed'] == 1
    assert first.card['sha256'] != second.card['sha256']
    assert first.card['data'] == second.card['data']
    linear = report.table[report.table.method == 'simclr+linear']
    assert linear.groupby('pretraining').score.mean().nunique() == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'figure.png', 'others', 'report.json', 'representation']


def test_a_run_stopped_in_its_second_pre_training_resumes(tiny, tmp_path, stop_at):
    whole = simclr.run(out=tmp_path/'whole', device='cpu', seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        plain, calls = simclr.pretrain, []

        def counted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return plain(*args, **kwargs)
        patch.setattr(simclr, 'pretrain', counted)
        with pytest.raises(KeyboardInterrupt, match='give the same command'):
            simclr.run(out=tmp_path/'cut', device='cpu', seeds=2)
    report = simclr.run(out=tmp_path/'cut', device='cpu', seeds=2)
    assert report.scores == whole.scores


def test_what_pre_training_saw_is_not_tested_on(rep, tiny, tmp_path, capfd):
    "The card names the data and the seed of their split; that split is used again"
    splits = digits(seed=4)
    rep.card['data'] = dict(hash=splits.hash, split_seed=4)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simclr, 'score_and_report', lambda reps, splits, *a, **k: (
            seen.append(splits), simclr.Report(
                recipe='transfer', preset='quick', data='digits', device='cpu', seed=0,
                seconds={}, scores=[], headline={}))[1])
        simclr.transfer(rep, 'digits', seed=1, out=tmp_path/'a', device='cpu')
        rep.card['data']['hash'] = 'of other data'
        simclr.transfer(rep, 'digits', seed=1, out=tmp_path/'b', device='cpu')
    same, other = seen
    assert torch.equal(same.test, splits.test) and same.seed == 4 and other.seed == 1
    assert 'they are split with seed 4 again' in capfd.readouterr().err
    assert not set(same.test.tolist()) & set(splits.unlabelled.tolist())


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
