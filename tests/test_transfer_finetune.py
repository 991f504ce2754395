"Fine-tuning on a tiny problem: rates, seeds, batch norm, few labels"
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from replearn_nb.core import ReplearnError
from replearn_nb.encoders.convnets import small_convnet
from replearn_nb.transfer.finetune import (
    ClassHead,
    Head,
    RepeatingDL,
    finetune,
    label_fraction,
)
from replearn_nb.transfer.probes import LinearProbe

def make(n, seed=0):
    "8x8 images of a bright quarter, which is the class, in noise"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = torch.randint(0, 150, (n, 1, 8, 8), generator=g)
    for i, c in enumerate(y.tolist()):
        r, s = 4 * (c // 2), 4 * (c % 2)
        x[i, :, r:r + 4, s:s + 4] += 70
    return x.to(torch.uint8), y


def normalise(x):
    return x.float() / 64 - 1.5


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = small_convnet(width=4)
    with torch.no_grad():  # statistics of its own
        for _ in range(20):
            encoder.train()(normalise(make(64)[0]))
    return encoder.eval()


(X, Y), (XT, YT) = make(40), make(200, 2)
FEW = dict(normalise=normalise, device='cpu', steps=20)
FOUR = ClassHead(4)


def new():
    return small_convnet(width=4)


def state(m):
    return {k: v.clone() for k, v in m.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Spy(Callback):
    "Writes down what each step did"
    order = 70

    def before_fit(self):
        self.start, self.modes, self.sizes = state(self.model), [], []

    def before_batch(self):
        if self.training:
            bn = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
            self.modes.append({m.training for m in bn})
            self.sizes.append(len(self.xb[0]))


def test_learns_and_leaves_the_encoder_alone(encoder):
    before = state(encoder)
    tuned = finetune(encoder, FOUR, X, Y, **(FEW | dict(steps=60, lr=1e-2)))
    assert equal(state(encoder), before) and not encoder.training
    assert (tuned.predict(XT) == YT).float().mean() > .6  # chance is .25
    p = FOUR.predict_proba(tuned.model, XT, bs=7)
    torch.testing.assert_close(p.sum(1), torch.ones(200))
    torch.testing.assert_close(p, tuned.predict_proba(XT))
    assert tuned.model.encoder.num_features == encoder.num_features


def test_frozen_encoders_are_trained_too(encoder):
    encoder.requires_grad_(False)
    tuned = finetune(encoder, FOUR, X, Y, **FEW)
    assert all(p.requires_grad for p in tuned.model.parameters())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_discriminative_rates(encoder):
    tuned = finetune(encoder, FOUR, X, Y, lr=2e-2, encoder_lr=5e-4, **FEW)
    groups, hypers = tuned.learn.opt.param_lists, tuned.learn.opt.hypers
    assert [len(g) for g in groups] == [15, 2]
    assert hypers[1]['lr'] / hypers[0]['lr'] == pytest.approx(40)
    assert max(tuned.learn.recorder.lrs) == pytest.approx(2e-2, rel=.05)
    scratch = finetune(new, FOUR, X, Y, lr=2e-2, **FEW)
    a, b = [h['lr'] for h in scratch.learn.opt.hypers]
    assert a == b


def test_rates_reach_the_weights(encoder):
    spy = Spy()
    still = finetune(encoder, FOUR, X, Y, encoder_lr=0., cbs=[spy], **FEW)
    weights = dict(still.model.encoder.named_parameters())
    assert all(torch.equal(p, v) for (_, p), v in
               zip(encoder.named_parameters(), weights.values(), strict=True))
    assert not torch.equal(still.model.layer.weight, spy.start['layer.weight'])


def test_a_function_of_the_seed(encoder):
    def run(seed, **kwargs):
        return state(finetune(
            encoder, FOUR, X, Y, seed=seed, **(FEW | kwargs)).model)
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    a = run(3)
    assert torch.equal(torch.get_rng_state(), generator)
    torch.manual_seed(2)
    assert equal(run(3), a) and not equal(run(4), a)

    def fresh(seed):
        return state(finetune(new, FOUR, X, Y, seed=seed, **FEW).model)
    one = fresh(3)
    torch.rand(5)
    assert equal(fresh(3), one) and not equal(fresh(4), one)


def test_head_of_a_probe_is_where_it_starts(encoder):
    with torch.no_grad():
        features = encoder(normalise(X))
        test = encoder(normalise(XT))
    probe = LinearProbe.fit(features, Y, strengths=[.1], n_classes=6)
    tuned = finetune(encoder, ClassHead(6, probe.head()), X, Y, lr=0, bs=3,
                     **FEW)  # batch norm keeps its statistics
    torch.testing.assert_close(
        tuned.predict_proba(XT).double(), probe.predict_proba(test), rtol=0, atol=1e-5)
    start = probe.head()
    before = state(start)
    finetune(encoder, ClassHead(6, start), X, Y, **FEW)
    assert equal(state(start), before)


def test_the_last_weights_are_what_remains(encoder):
    "The learner can also be asked, as fastai's learners can"
    tuned = finetune(encoder, FOUR, X, Y, lr=1e-2, **FEW)
    assert len(tuned.learn.recorder.losses) == 20
    for ds_idx in 0, 1:
        with tuned.learn.no_bar():
            logits, y = tuned.learn.get_preds(ds_idx=ds_idx)
        torch.testing.assert_close(logits.softmax(1), tuned.predict_proba(X))
        assert torch.equal(y, Y)


def test_batches_of_few_images(encoder):
    spy = Spy()
    finetune(encoder, FOUR, X[:6], Y[:6], bs=4, cbs=[spy], **FEW)
    assert spy.sizes == [4] * 20
    spy = Spy()
    finetune(encoder, FOUR, X[:6], Y[:6], cbs=[spy], **FEW)
    assert spy.sizes == [6] * 20


@pytest.mark.parametrize('bs, trains', [(3, False), (4, True), (32, True)])
def test_batch_norm_keeps_its_statistics_in_tiny_batches(encoder, bs, trains):
    spy = Spy()
    tuned = finetune(encoder, FOUR, X, Y, bs=bs, lr=1e-2, cbs=[spy], **FEW)
    assert spy.modes == [{trains}] * 20
    for k, v in encoder.state_dict().items():
        if 'running' in k:
            assert torch.equal(tuned.model.encoder.state_dict()[k], v) is not trains
    assert finetune(encoder, FOUR, X[:2], Y[:2], **FEW)


def test_repeating_loader_is_even_and_fresh():
    dl = RepeatingDL(torch.arange(10), batches=9, bs=5, device='cpu')
    a, b = (torch.cat([x for x, in dl]) for _ in range(2))
    for seen in a, b:
        counts = seen.bincount(minlength=10)
        assert len(seen) == 45 and counts.min() >= 4 and counts.max() <= 5
    assert not torch.equal(a, b)


def test_augment_only_in_training(encoder):
    calls = []

    def augment(x):
        assert x.dtype == torch.uint8
        calls.append(len(x))
        return x
    tuned = finetune(encoder, FOUR, X, Y, augment=augment, bs=8, **FEW)
    assert calls == [8] * 20
    tuned.predict(XT)
    assert len(calls) == 20


def test_features_need_no_normalise():
    class Flat(nn.Module):
        num_features = 5

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 5)

        def forward_features(self, x):
            return self.layer(x)

        forward = forward_features

    torch.manual_seed(0)
    x = torch.randn(30, 3)
    y = (x[:, 0] > 0).long()
    tuned = finetune(Flat(), ClassHead(2), x, y, steps=50, lr=.1, device='cpu')
    assert (tuned.predict(x) == y).float().mean() > .9


def test_more_callbacks_can_be_given(encoder):
    tuned = finetune(encoder, FOUR, X, Y, cbs=[(spy := Spy())], **FEW)
    assert spy in list(tuned.learn.cbs)


class NextHead(Head):
    "A number after a number, as a decoder says a word after a word, beside an input"
    def rows(self, x, y):
        return x, y, (y + 1) % 4

    def layer(self, num_features):
        return nn.Linear(num_features + 4, 4)

    def logits(self, encoder, layer, x, before):
        return layer(torch.cat([encoder(x), nn.functional.one_hot(before, 4)], 1))

    def predict(self, network, x):
        network.eval()
        return [network(x, torch.full((len(x),), c)).argmax(1) for c in range(4)]


def test_a_head_may_read_two_inputs_and_bring_its_own_layer(encoder):
    "What the decoder of a translation needs; the images say nothing here"
    x = X[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    tuned = finetune(encoder, NextHead(), x, Y, encoder_lr=0.,
                     **(FEW | dict(steps=150, lr=.1)))
    assert tuned.model.layer.in_features == encoder.num_features + 4
    for c, guess in enumerate(tuned.predict(XT)):
        assert (guess == (c + 1) % 4).float().mean() > .9


@pytest.mark.parametrize('change, says', [
    (dict(y=Y[:3]), 'y should be 40 class numbers'),
    (dict(y=Y[:, None]), 'y should be 40 class numbers'),
    (dict(y=torch.zeros(40).long()), 'at least two classes'),
    (dict(head=ClassHead(3)), 'Labels run from 0 to 3, but should run from 0 to 2'),
    (dict(head=ClassHead(4, nn.Linear(3, 4))), r'have weights of shape \(4, 16\)'),
    (dict(encoder=nn.Flatten()), 'Flatten is no Encoder'),
    (dict(steps=0), 'should be at least 1, not 0 and 32'),
    (dict(x=X[:0], y=Y[:0]), 'at least two classes'),
])
def test_says_what_is_wrong(encoder, change, says):
    args = dict(encoder=encoder, head=FOUR, x=X, y=Y) | FEW
    with pytest.raises(ReplearnError, match=says):
        finetune(**(args | change))


def test_nothing_is_printed(encoder, capsys):
    finetune(encoder, FOUR, X, Y, **FEW)
    assert capsys.readouterr() == ('', '')


def test_label_fraction():
    y = torch.cat([torch.full((n,), c) for c, n in enumerate([1000, 95, 3])])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    for fraction, counts in (.01, [10, 1, 1]), (.1, [100, 10, 1]), (1, [1000, 95, 3]):
        i = label_fraction(y, fraction, seed=5)
        assert y[i].bincount().tolist() == counts
        assert len(set(i.tolist())) == len(i) and i.tolist() == sorted(i.tolist())
    small, large = (set(label_fraction(y, f, 5).tolist()) for f in (.01, .1))
    assert small < large and small != set(label_fraction(y, .01, 6).tolist())
    for fraction in 0, -1, 1.5:
        with pytest.raises(ReplearnError, match='at most 1'):
            label_fraction(y, fraction)
