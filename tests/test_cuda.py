"""Code for CUDA without a GPU: tensors that pretend to be there meet none of the CPU

What this can't see: kernels that a GPU lacks, precision, and fp16 and bf16, which
fastai opens for a real GPU only."""
import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import Adam
from pretend import CUDA, Pretend, PretendGPU
from torch import nn

from replearn_nb.core import local_seed, tensor_dls
from replearn_nb.data.images import ImagePreprocessing, digits
from replearn_nb.data.questions import invented_questions
from replearn_nb.data.text import TextPreprocessing, make_texts, split_texts
from replearn_nb.data.text import train_sentencepieces as pieces
from replearn_nb.encoders.convnets import resnet18, small_convnet, strided_convnet
from replearn_nb.encoders.gin import gin
from replearn_nb.encoders.transformer import bert, cramming
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.graphs import (
    attrmask_learner,
    context_learner,
    edge_learner,
    infomax_learner,
    supervised_learner,
)
from replearn_nb.pretext.masked_lm import adamw, masked_lm_learner
from replearn_nb.pretext.optim import lars
from replearn_nb.pretext.simclr import nt_xent, simclr_learner
from replearn_nb.pretext.views import GaussianBlur, digit_views, simclr_views
from replearn_nb.representation import Representation
from replearn_nb.transfer.finetune import ClassHead, finetune
from replearn_nb.transfer.labels import accuracy
from replearn_nb.transfer.probes import LinearProbe, knn_accuracy, knn_predict
from replearn_nb.transfer.spans import SpanHead
from replearn_nb.transfer.tasks import TaskHead, mean_rmse, mean_roc_auc, probe_tasks

@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (2**34, 2**34))
    with local_seed(0), PretendGPU():
        yield


def all_there(module: nn.Module):
    assert {t.device for t in module.state_dict().values()} == {CUDA}


@pytest.fixture(scope='module')
def text():
    words = 'the cat sat on a mat and then it ran to some other mat in town'.split()
    texts = [' '.join(words[i % 7:i % 7 + 3 + i % 9]) for i in range(120)]
    splits = split_texts(make_texts(texts, [i % 2 for i in range(120)]))
    pre = TextPreprocessing(pieces(texts, 60), 32)
    return splits, pre


def text_encoder(make, pre):
    return make(pre.tok.vocab_size, 2, 32, 2, max_len=32, pad=pre.tok.pad)


@pytest.fixture(scope='module')
def mols():
    pytest.importorskip('rdkit')
    from replearn_nb.data.molecules import embedded
    return embedded(60)


def test_a_buffer_left_behind_is_found():
    "The tests below can fail: by a buffer, a table, a mask and a target on the CPU"
    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.ones(3, 3)  # no buffer, so `.to` does not move it

        def forward(self, x):
            return x @ self.table

    x = torch.rand(4, 3, device='cuda')
    layer = nn.Linear(3, 3).to('cuda')
    all_there(layer)
    for wrong in (
            lambda: Forgets().to('cuda')(x), lambda: layer(x.cpu()),
            lambda: torch.where(x > 0, x, torch.zeros(4, 3)),
            lambda: nn.functional.cross_entropy(x, torch.zeros(4).long()),
            lambda: x.masked_fill(torch.ones(4, 3) > 0, 0), lambda: x.add_(x.cpu()),
            lambda: torch.cat([x, torch.zeros(1, 3)]),
            lambda: torch.zeros(4)[torch.arange(3, device='cuda')]):
        with pytest.raises(RuntimeError, match='same device'):
            wrong()
    with pytest.raises(TypeError, match='numpy'):
        x.numpy()
    for right in (layer(x), x * torch.tensor(2.), x[torch.tensor([0, 1])],
                  x.to('cpu').to(x), layer(x).sum()):
        assert isinstance(right, Pretend) and right.device == CUDA
    assert x.cpu().numpy().shape == (4, 3) and not isinstance(x.cpu(), Pretend)


def test_a_view_that_forgets_the_device_fails_a_training():
    def forgets(x):
        return x.float() + torch.rand(x.shape)

    with pytest.raises(RuntimeError, match='same device'):
        simclr(small_convnet(1, 4), views=nn.Sequential(Forgetting(forgets)))


class Forgetting(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def simclr(encoder, channels=1, **kwargs):
    "Two epochs on the pretended GPU"
    x = torch.randint(0, 256, (32, channels, 8, 8), dtype=torch.uint8)
    learn = simclr_learner(
        tensor_dls((x,), (x[:16],), bs=16, device='cuda'), encoder,
        preprocessing=ImagePreprocessing.fit(x), progress=False, **kwargs)
    return fitted(learn)


def fitted(learn, **kwargs):
    pretrain(learn, 2, 1e-3, **kwargs)
    all_there(learn.model)
    assert torch.isfinite(torch.tensor(learn.recorder.losses)).all()
    return learn


@pytest.mark.parametrize('encoder, channels, views, opt_func', [
    (small_convnet, 1, digit_views(), Adam),
    (strided_convnet, 1, digit_views(), lars),
    (resnet18, 3, nn.Sequential(*simclr_views(8, blur=True), GaussianBlur()), lars)])
def test_simclr(encoder, channels, views, opt_func):
    network = encoder(channels=channels)
    simclr(network, channels, views=views, opt_func=opt_func, channels_last=True)


def test_nt_xent():
    z = torch.rand(2, 4, 8, device='cuda').requires_grad_()
    nt_xent(*z.unbind()).backward()
    assert z.grad.device == CUDA


@pytest.mark.parametrize('make', [bert, cramming])
def test_masked_language_modelling(make, text):
    splits, pre = text
    dls = splits.dls(16, pre.tok, 32, 'cuda')
    fitted(masked_lm_learner(dls, text_encoder(make, pre), pre.tok, progress=False))


@pytest.mark.parametrize('task', [
    attrmask_learner, context_learner, edge_learner, infomax_learner,
    supervised_learner], ids=lambda f: f.__name__)
def test_graphs(task, mols):
    graphs, y = mols.graphs, mols.y[:, :1].clone()
    y[::3] = float('nan')
    data = (graphs, y) if task is supervised_learner else (graphs,)
    dls = tensor_dls(data, tuple(d[:20] for d in data), bs=30, device='cuda')
    kwargs = {supervised_learner: dict(n_tasks=1), attrmask_learner: dict(bonds=True),
              context_learner: dict(k=2, r1=1, r2=3)}.get(task, {})
    fitted(task(dls, gin(layers=2, dim=8), progress=False, **kwargs))


def test_fine_tuning_images():
    splits = digits()
    x, y = (t[:40] for t in splits.part('train'))
    pre = ImagePreprocessing.fit(x)
    start = nn.Linear(32, 10)
    for head in ClassHead(10), ClassHead(10, start):
        tuned = finetune(small_convnet(1, 8), head, x, y, pre.normalise, digit_views(),
                         steps=2, device='cuda')
        all_there(tuned.model)
        assert tuned.predict(x).device.type == 'cpu'
        assert 0 <= accuracy(y, tuned.predict(x)) <= 1


@pytest.mark.parametrize('kind', ['classification', 'regression'])
def test_fine_tuning_molecules(kind, mols):
    y = torch.rand(len(mols.graphs), 3).round()
    y[::2, 0] = float('nan')
    head = TaskHead(3, kind)
    tuned = finetune(gin(2, 8), head, mols.graphs, y, steps=2, device='cuda')
    all_there(tuned.model)
    said = tuned.predict(mols.graphs)
    assert said.shape == y.shape and mean_roc_auc(y, said) >= 0
    assert mean_rmse(y, said) >= 0


@pytest.mark.parametrize('make', [bert, cramming])
def test_fine_tuning_names(make):
    pytest.importorskip('seqeval')
    from replearn_nb.data.entities import invented_entities
    from replearn_nb.transfer.tokens import TokenHead
    sentences = invented_entities(40, seed=0).data
    pre = TextPreprocessing(pieces([' '.join(w) for w in sentences.words], 150), 32)
    head = TokenHead(sentences.kinds, pre)
    tuned = finetune(text_encoder(make, pre), head, sentences.words, sentences.tags,
                     steps=2, device='cuda')
    all_there(tuned.model)
    assert len(tuned.predict(sentences.words[:5])) == 5


def test_fine_tuning_questions():
    questions = invented_questions(30, facts=2, seed=1).data.questions
    tok = pieces([q.context for q in questions] + ['Where who which company?'], 120)
    pre = TextPreprocessing(tok, 32)
    tuned = finetune(text_encoder(bert, pre), SpanHead(pre), questions, steps=2,
                     device='cuda')
    all_there(tuned.model)
    assert len(tuned.predict(questions[:5])) == 5


def test_embedding(text):
    _, pre = text
    rep = Representation(text_encoder(bert, pre).to('cuda'), pre)
    items = pre.prepare(['a few words', 'and a few more of them', 'one'])
    assert rep.features(items).shape == (3, 32)
    rep = Representation(small_convnet(1, 4).to('cuda'), ImagePreprocessing.fit(
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8)))
    assert rep.features(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape == (5, 16)


def test_probes():
    y = torch.arange(60, device='cuda') % 3
    x = torch.randn(60, 5, device='cuda') + y[:, None]
    for labels in y, y.cpu():
        probe = LinearProbe.fit(x, labels, standardise_on=x.cpu())
        assert probe.predict(x).device == CUDA and probe.head()(x).device == CUDA
        assert knn_predict(x, labels, x, k=5).device == CUDA
        assert knn_accuracy(x, labels, x, labels, k=5) > .3
    tasks = (x[:, :2] > 1).float()
    tasks[::4, 0] = float('nan')
    for kind in 'classification', 'regression':
        assert probe_tasks(x, tasks, kind=kind)(x).device == CUDA


@pytest.mark.parametrize('opt_func', [Adam, lars, adamw], ids=['Adam', 'LARS', 'AdamW'])
def test_a_resumed_optimiser_has_its_state_where_its_parameters_are(tmp_path, opt_func):
    "What was saved is read to the CPU; counts of steps stay there, as torch has them"
    def learner(device):
        x = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
        return simclr_learner(
            tensor_dls((x,), (x[:16],), bs=16, device=device), small_convnet(1, 4),
            views=digit_views(), opt_func=opt_func, progress=False)

    class Stop(Callback):
        order = 90

        def after_epoch(self):
            if self.epoch == 1:
                raise KeyboardInterrupt

    stopped = learner('cpu')
    stopped.add_cb(Stop())
    with pytest.raises(KeyboardInterrupt):
        pretrain(stopped, 3, 1e-3, folder=tmp_path, seconds=0)
    learn = learner('cuda')
    pretrain(learn, 3, 1e-3, folder=tmp_path)
    assert [bool(v) for v in learn.recorder.values] == [False, False, True]  # resumed
    for state in learn.opt.state.values():
        places = {k: v.device for k, v in state.items()
                  if isinstance(v, torch.Tensor) and v.ndim}
        assert set(places.values()) <= {CUDA}, places
    assert any(learn.opt.state.values())
