"SimCLR: its loss against brute force and a peer, its run against kills and processes"
import json
import math
import subprocess
from functools import partial

import pytest
import torch
from fastai.vision.core import TensorImage
from lightly.loss import NTXentLoss
from processes import check_kills, check_ranks, start, torchrun
from timm.optim import Lars as PeerLARS

from replearn_nb.core import ReplearnError, local_seed, tensor_dls
from replearn_nb.encoders.convnets import small_convnet
from replearn_nb.pretext.base import CollapseWarning, pretrain
from replearn_nb.pretext.optim import LARS
from replearn_nb.pretext.simclr import nt_xent, simclr_learner
from replearn_nb.pretext.views import digit_views

def double_loop(z1, z2, temperature):
    "Equation 1, term by term, in float64"
    z = [o.double() / o.double().norm() for o in torch.cat([z1, z2])]
    n, total = len(z1), 0.
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        s = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n)]
        total -= math.log(s[j] / sum(s[k] for k in range(2 * n) if k != i))
    return total / (2 * n)


@pytest.mark.parametrize('n, d', [(1, 3), (2, 2), (7, 16)])
@pytest.mark.parametrize('temperature', [.07, .5, 1.])
def test_nt_xent(n, d, temperature):
    with local_seed(n):
        z1, z2 = torch.randn(2, n, d)
    got = nt_xent(z1, z2, temperature)
    assert float(got) == pytest.approx(double_loop(z1, z2, temperature), abs=1e-5)
    peer = NTXentLoss(temperature=temperature)(z1, z2)
    torch.testing.assert_close(got, peer, atol=1e-5, rtol=0)


def test_nt_xents_gradient_equals_the_peers():
    with local_seed(0):
        a = torch.randn(2, 5, 8)
    grads = []
    for loss in (nt_xent, NTXentLoss(temperature=.5)):
        z = a.clone().requires_grad_()
        loss(z[0], z[1]).backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, atol=1e-6, rtol=0)


def test_nt_xent_is_float32_under_autocast():
    with local_seed(0):
        z1, z2 = torch.randn(2, 64, 32)
    with torch.autocast('cpu', torch.bfloat16):
        low = nt_xent(z1, z2, .1)
    torch.testing.assert_close(low, nt_xent(z1, z2, .1))


def test_lars_equals_the_peer_at_a_constant_rate():
    "Without decay: the peer adds the two norms, the paper's code takes the sum's norm"
    with local_seed(0):
        start, grads = torch.randn(4, 6), torch.randn(5, 4, 6)
    ends = []
    for make in LARS, partial(PeerLARS, momentum=.9, always_adapt=True):
        w = torch.nn.Parameter(start.clone())
        opt = make([w], lr=.5, weight_decay=0)
        for g in grads:
            w.grad = g.clone()
            opt.step()
        ends.append(w.detach())
    torch.testing.assert_close(*ends, atol=1e-6, rtol=1e-5)


def images(n=64, seed=0):
    with local_seed(seed):
        return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)


def learner(bs=16, **kwargs):
    x = images()
    dls = tensor_dls((x,), (x[:16],), bs=bs, device='cpu')
    with local_seed(1):
        return simclr_learner(dls, small_convnet(1, 4), digit_views(), progress=False,
                              **kwargs)


def weights(learn):
    ps = learn.model.state_dict().values()
    return torch.cat([p.flatten().double() for p in ps])


def test_labels_make_no_difference():
    x = images()
    ends = []
    for y in (torch.zeros(64).long(), torch.arange(64)):
        dls = tensor_dls((x, y), (x, y), bs=16, device='cpu')
        with local_seed(1):
            learn = simclr_learner(dls, small_convnet(1, 4), digit_views(),
                                   progress=False)
        ends.append(weights(pretrain(learn, 1, .1)))
    assert torch.equal(*ends)


@pytest.mark.parametrize('kwargs', [dict(precision='bf16'), dict(channels_last=True),
                                    dict(precision='bf16', channels_last=True)])
def test_precision_and_format_learn_about_the_same(kwargs):
    plain, other = (pretrain(learner(**k), 2, .5) for k in ({}, kwargs))
    a, b = plain.recorder.losses[-1], other.recorder.losses[-1]
    assert float(b) == pytest.approx(float(a), rel=.02)
    assert next(other.model.parameters()).dtype == torch.float32


def test_accumulated_batches_make_one_step():
    "Two batches of 16 give one step, with the mean of the two losses' gradients"
    learn = learner(accumulate=2)
    steps = []
    step = learn._step
    learn._step = lambda: (steps.append(1), step())
    pretrain(learn, 2, .1)
    assert len(steps) == 4  # 2 epochs of 4 batches


def test_refuses_unknown_precision():
    with pytest.raises(ReplearnError, match="fp32 or bf16 on cpu, not 'fp16'"):
        learner(precision='fp16')


def test_refuses_a_batch_of_one():
    with pytest.raises(ReplearnError, match='2 or more in a batch, not 1'):
        learner(bs=1)


def test_refuses_what_fastai_normalised():
    "With numbers in the sentence, though they come from a TensorImage"
    x = TensorImage(images() / 127.5 - 1)
    with pytest.raises(ReplearnError, match='from -1.00 to 1.00: leave Normalize'):
        simclr_learner(tensor_dls((x,), (x,), 16, 'cpu'), small_convnet(1, 4))


def test_says_that_features_have_collapsed():
    learn = learner()
    bn = [m for m in learn.model.encoder.modules() if hasattr(m, 'running_mean')][-1]
    with torch.no_grad():
        bn.weight.zero_()
        bn.bias.fill_(1.)
    with pytest.warns(CollapseWarning, match='have collapsed in epoch 1'):
        pretrain(learn, 1, 1e-6)


def test_a_killed_run_ends_as_if_it_had_never_stopped(tmp_path):
    check_kills('simclr_run.py', tmp_path, [2, 5])


def test_two_processes_equal_one(tmp_path):
    "The same loss and gradients on half a batch each as on the whole batch at once"
    assert check_ranks('simclr_ranks.py', tmp_path)['loss'] > 1


def test_the_command_runs_in_two_processes(tmp_path):
    "Killed, it resumes with as many and with no fewer; rank 0 alone saves and scores"
    command = 'simclr_command.py', 'run', 'simclr', '--device', 'cpu', '--out'
    run = tmp_path/'run'
    assert torchrun(*command, run, KILL_AFTER='2').returncode
    assert (run/'kept/seed-0/checkpoint.pt').exists()
    one = start(*command, run, stderr=subprocess.STDOUT)
    out = ' '.join(one.communicate(timeout=200)[0].split())
    assert one.returncode == 1 and 'another run (processes was 2, is 1)' in out, out
    two = torchrun(*command, run)
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stdout.count('Written to') == 1
    assert sorted(o.name for o in run.iterdir()) == [
        'figure.png', 'report.json', 'representation']
    card = json.loads((run/'representation'/'card.json').read_text())
    assert (card['epochs'], card['steps']) == (3, 6)  # of 2 x 256 images each
