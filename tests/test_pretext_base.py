"Pre-training: what a run resumes from, and what it refuses to resume from"
import copy
import os
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from fastai.optimizer import Adam, OptimWrapper
from torch import nn

from replearn_nb.core import ReplearnError, local_seed, tensor_dls
from replearn_nb.data.images import ImagePreprocessing
from replearn_nb.encoders.convnets import small_convnet
from replearn_nb.pretext.base import (
    Checkpoint,
    data_hash,
    pretrain,
    settings_of,
    training_cbs,
)
from replearn_nb.pretext.optim import LARS, lars
from replearn_nb.pretext.simclr import simclr_learner
from replearn_nb.pretext.views import digit_views

class Stop(Callback):
    "Interrupt after the second epoch"
    order = 90

    def after_epoch(self):
        if self.epoch == 1:
            raise KeyboardInterrupt


def images(seed=0, n=48):
    with local_seed(seed):
        return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)


def learner(x=None, width=2, bs=16, cbs=(), encoder=None, **kwargs):
    x = images() if x is None else x
    dls = tensor_dls((x,), (x[:16],), bs=bs, device='cpu')
    with local_seed(1):
        learn = simclr_learner(dls, encoder or small_convnet(1, width), **dict(
            views=digit_views(), opt_func=Adam, progress=False) | kwargs)
    learn.add_cbs(cbs)
    return learn


def stopped(folder, epochs=4, lr=.01, **kwargs):
    with pytest.raises(KeyboardInterrupt):
        pretrain(learner(cbs=[Stop()], **kwargs), epochs, lr, folder=folder, seconds=0)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "With the checkpoint of a run that was stopped"
    folder = tmp_path_factory.mktemp('stopped')
    stopped(folder)
    return folder


def refused(folder, epochs=4, lr=.01, wd=1e-6, **kwargs):
    learn = learner(**kwargs)
    learn.fit = None  # refused before any training
    with pytest.raises(ReplearnError) as e:
        pretrain(learn, epochs, lr, wd, folder=folder, seconds=0)
    assert '\n' not in str(e.value) and 'or name another folder' in str(e.value)
    return str(e.value)


def stronger():
    views = digit_views()
    views[1].degrees = 90
    return views


@pytest.mark.parametrize('changes, says', [
    (dict(epochs=5), 'epochs was 4, is 5'),
    (dict(lr=.02), 'lr was 0.01, is 0.02'),
    (dict(wd=.1), 'wd was 1e-06, is 0.1'),
    (dict(seed=1), 'seed was 0, is 1'),
    (dict(bs=8), 'bs was 16, is 8'),
    (dict(x=images(1)), 'rows was '),
    (dict(x=images(0, 50)), 'rows was '),
    (dict(temperature=.1), 'temperature was 0.5, is 0.1'),
    (dict(views=stronger()), 'views.1.degrees was 15, is 90'),
    (dict(views=digit_views()[:2]), 'was RandomNoise, is None'),
    (dict(preprocessing=ImagePreprocessing(8, 1, [.5], [.2])),
     'normalise was noop, is ImagePreprocessing'),
    (dict(width=3), 'parameters was '),
    (dict(out=64), 'parameters was '),
    (dict(accumulate=2), 'n_acc was None, is 64'),
    (dict(precision='bf16'), 'precision was '),
    (dict(cbs=[GradientClip(1.)]), 'max_norm was None, is 1.0'),
    (dict(opt_func=lars), 'opt_func was Adam, is OptimWrapper'),
    (dict(opt_func=partial(Adam, mom=.5)), 'opt_func.mom was None, is 0.5'),
])
def test_refuses_to_resume_another_run(folder, changes, says):
    assert says in refused(folder, **changes)


def test_refuses_other_settings_inside_the_encoder(folder):
    encoder = small_convnet(1, 2)
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    norm.momentum = .5
    assert 'momentum was 0.1, is 0.5' in refused(folder, encoder=encoder)
    frozen = small_convnet(1, 2)
    next(frozen.parameters()).requires_grad_(False)
    assert 'parameters was ' in refused(folder, encoder=frozen)


def test_refuses_another_number_of_processes(folder, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'processes was 1, is 2' in refused(folder)


def weights(learn):
    return torch.cat([p.flatten().double() for p in learn.model.state_dict().values()])


@pytest.mark.parametrize('kwargs', [
    {}, dict(opt_func=lars), dict(precision='bf16'),
    dict(accumulate=2),  # three batches an epoch: one is left over
    dict(cbs=[GradientClip(.1)])])
def test_resumed_it_ends_as_if_it_had_never_stopped(tmp_path, kwargs):
    more = copy.deepcopy(kwargs.pop('cbs', []))
    with pytest.raises(KeyboardInterrupt):
        pretrain(learner(cbs=[Stop(), *copy.deepcopy(more)], **kwargs), 4, .1,
                 folder=tmp_path, seconds=0)
    # what watches only may differ
    resumed = pretrain(learner(cbs=copy.deepcopy(more), score=lambda encoder: 0.,
                               **kwargs), 4, .1, folder=tmp_path)
    whole = pretrain(learner(cbs=copy.deepcopy(more), **kwargs), 4, .1)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.train_iter == whole.train_iter == 12
    a, b = ([float(o) for o in r.recorder.losses] for r in (resumed, whole))
    assert len(a) == 12 and a == pytest.approx(b)


@pytest.mark.parametrize('kept', [0, 1, 100, -1])
def test_a_truncated_checkpoint_is_named(folder, tmp_path, kept):
    data = (folder/'checkpoint.pt').read_bytes()
    (tmp_path/'checkpoint.pt').write_bytes(data[:kept])
    with pytest.raises(ReplearnError, match='checkpoint.pt is damaged: delete it'):
        pretrain(learner(), 4, .01, folder=tmp_path)


def test_a_checkpoint_without_a_part_is_damaged(folder, tmp_path):
    state = torch.load(folder/'checkpoint.pt', weights_only=True)
    del state['opt']
    torch.save(state, tmp_path/'checkpoint.pt')
    with pytest.raises(ReplearnError, match='checkpoint.pt is damaged: delete it'):
        pretrain(learner(), 4, .01, folder=tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint(folder, tmp_path, monkeypatch):
    shutil.copy(folder/'checkpoint.pt', tmp_path)

    def full(fd):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(ReplearnError, match="^Can't write .*: No space left") as e:
        pretrain(learner(), 4, .01, folder=tmp_path, seconds=0)
    assert '\n' not in str(e.value)
    monkeypatch.undo()
    assert [o.name for o in tmp_path.iterdir()] == ['checkpoint.pt']
    assert len(pretrain(learner(), 4, .01, folder=tmp_path).recorder.losses) == 12


@pytest.mark.filterwarnings('ignore:.*copying from a non-meta parameter')
@pytest.mark.parametrize('opt_func', [
    Adam, partial(OptimWrapper, opt=torch.optim.AdamW), lars])
def test_the_optimisers_state_moves_to_its_parameters(opt_func):
    "From a CPU's checkpoint to parameters elsewhere, which then take a step"
    def trained(device):
        layer = nn.Linear(3, 2, device=device)
        opt = opt_func(list(layer.parameters()), lr=.1)
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        return layer, opt

    layer, opt = trained('cpu')
    opt.step()
    elsewhere, new = trained('meta')  # a stand-in: operations across devices fail
    cb = Checkpoint('none', {})
    cb.state = dict(model=layer.state_dict(), opt=opt.state_dict(), scaler={},
                    losses=[1.], smooth=1., steps=1)
    cb.learn = SimpleNamespace(model=elsewhere, opt=new, recorder=SimpleNamespace(
        smooth_loss=SimpleNamespace()))
    cb.before_fit()
    for p, state in getattr(new, 'opt', new).state.items():
        moved = [v for k, v in state.items() if isinstance(v, torch.Tensor) and v.ndim]
        assert moved and all(v.device == p.device for v in moved)
    new.step()


def test_no_epoch_begins_with_the_gradients_of_another():
    "Of three batches an epoch two make a step, and the third is dropped"
    learn, steps = learner(accumulate=2), []
    step = learn._step
    learn._step = lambda: (steps.append(learn.epoch), step())
    pretrain(learn, 3, .1)
    assert steps == [0, 1, 2]


def test_data_hash_sees_rows_and_their_number():
    def of(*tensors):
        return data_hash(SimpleNamespace(tensors=tensors))
    x = images()
    other = x.clone()
    other[7, 0, 3, 3] ^= 1
    seen = {of(x), of(other), of(x[:47]), of(x.float()), of(x, x), of(x.flip(0)),
            of(torch.zeros(9).bool())}
    assert len(seen) == 7 and of(x) == of(x.clone())
    assert data_hash(SimpleNamespace()) is None


def test_settings_of_what_can_differ():
    class Tok:
        def __init__(self, data, **kwargs):
            self.data, self.cache = data, object()

    def of(o):
        return settings_of(o, 'o')
    assert of(Tok(b'a')) != of(Tok(b'b')) and of(Tok(b'a')) == of(Tok(b'a'))
    assert of(partial(LARS, trust=.1)) != of(partial(LARS, trust=.2))
    assert of(nn.Dropout(.1)) != of(nn.Dropout(.2))
    assert of([1, (2., None)]) == {'o.0': 1, 'o.1.0': 2., 'o.1.1': None}
    pre = ImagePreprocessing(8, 1, [.5], [.2])
    assert of(pre.normalise)['o.mean.0'] == .5


def test_predictions_of_a_pretext_task_are_refused():
    with pytest.raises(ReplearnError, match='use Representation.from_learner'):
        learner().get_preds()


def test_precision_is_not_pretended():
    with pytest.raises(ReplearnError, match="precision is fp32 on mps, not 'bf16'"):
        training_cbs(torch.device('mps'), 'bf16')
    assert training_cbs(torch.device('mps')) == []


def test_scores_are_taken_by_the_first_rank(monkeypatch):
    scored = []
    for rank in '1', '0':
        monkeypatch.setenv('RANK', rank)
        pretrain(learner(score=lambda encoder, rank=rank: scored.append(rank) or 0.),
                 1, .01)
    assert scored == ['0']
