"""SimCLR beside lightly: images a second, and accuracy on CIFAR-10

    python benchmarks/simclr.py speed [--precision bf16] [--out RESULT.json]
    python benchmarks/simclr.py accuracy [--peer-epochs 20] [--out RESULT.json]

Speed: same encoder (ResNet-18, CIFAR stem), batch, views and precision, in turns in one
process; and the floor: forward, backward and step alone, on a batch that stays.
"""
import os
import time
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from common import Device, Out, app, compare, train_on, write
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.utils.lars import LARS as PeerLARS
from PIL import Image
from torch import nn

from replearn_nb.core import get_device, local_seed, tensor_dls
from replearn_nb.data.images import cifar10
from replearn_nb.encoders.convnets import resnet18
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.optim import LARS
from replearn_nb.pretext.simclr import projection_head, simclr_learner
from replearn_nb.recipes.simclr import PRESETS, run
from replearn_nb.representation import Representation
from replearn_nb.transfer.probes import LinearProbe, knn_accuracy

class Photos(torch.utils.data.Dataset):
    "uint8 images as PIL images through the peer's transform, as its users have them"
    def __init__(self, x):
        self.x, self.views = x, SimCLRTransform(
            input_size=32, cj_strength=.5, gaussian_blur=0., normalize=None)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.views(Image.fromarray(self.x[i].permute(1, 2, 0).numpy()))


def autocast(device, precision):
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == 'bf16')


def new_encoder(device):
    with local_seed(0):
        return resnet18(cifar_stem=True).to(device)


def ours(x, bs, device, precision, epochs=1, lr=.1):
    "Train with replearn_nb"
    learn = simclr_learner(
        tensor_dls((x,), (x[:bs],), bs, device), new_encoder(device),
        precision=precision, channels_last=True, progress=False)

    def train():
        pretrain(learn, epochs, lr, warmup=.1)
        return epochs * len(learn.dls.train) * bs
    return train, learn.model.encoder


def peer(x, bs, device, precision, epochs=1, lr=.1):
    "Train with lightly, as its own examples do"
    encoder = new_encoder(device)
    head = SimCLRProjectionHead(512, 512, 128).to(device)
    model, loss = nn.Sequential(encoder, head), NTXentLoss(temperature=.5)
    opt = PeerLARS(model.parameters(), lr=lr, momentum=.9, weight_decay=1e-6)
    loader = torch.utils.data.DataLoader(
        Photos(x), bs, shuffle=True, drop_last=True, num_workers=os.cpu_count(),
        persistent_workers=True, pin_memory=device.type == 'cuda')

    def train():
        for _ in range(epochs):
            for v0, v1 in loader:
                v0, v1 = (v.to(device, non_blocking=True) for v in (v0, v1))
                with autocast(device, precision):
                    value = loss(model(v0), model(v1))
                opt.zero_grad()
                value.backward()
                opt.step()
        return epochs * len(loader) * bs
    return train, encoder


def floor(x, bs, device, precision, steps):
    "Forward, backward and step, on views that are there already"
    encoder = new_encoder(device)
    model = nn.Sequential(encoder, projection_head(512)).to(device)
    model = model.to(memory_format=torch.channels_last)
    opt = LARS(model.parameters(), lr=.1)
    views = torch.rand(2 * bs, 3, 32, 32, device=device)
    views = views.contiguous(memory_format=torch.channels_last)
    target = torch.arange(2 * bs, device=device).roll(bs)

    def loss():
        with autocast(device, precision):
            z = F.normalize(model(views).float(), dim=1)
            return F.cross_entropy(z @ z.T / .5, target)

    def train():
        train_on(loss, opt, steps, device)
        return steps * bs
    return train


@app.command()
def speed(
    bs: int = 0, steps: int = 0, rounds: int = 5, precision: str = 'fp32',
    device: Device = None, out: Out = None,
):
    "Images a second of ours, lightly and the floor, in turns; medians and ratios"
    started, device = time.perf_counter(), get_device(device)
    on_gpu = device.type == 'cuda'
    bs, steps = bs or (512 if on_gpu else 64), steps or (60 if on_gpu else 6)
    with local_seed(0):
        x = torch.randint(0, 256, (bs * steps, 3, 32, 32), dtype=torch.uint8)
    torch.backends.cudnn.benchmark = True
    runs = dict(ours=ours(x, bs, device, precision)[0],
                lightly=peer(x, bs, device, precision)[0],
                floor=floor(x, bs, device, precision, steps))
    write(out, started, device, ['lightly'], benchmark='simclr speed', batch=bs,
          steps=steps, precision=precision, **compare(runs, rounds, 'images'))


@app.command()
def accuracy(
    epochs: int = 200, peer_epochs: int = 0, folder: str = 'runs/cifar10',
    device: Device = None, out: Out = None,
):
    "CIFAR-10 at `full`: k-NN and linear accuracy; and lightly's k-NN on the same files"
    started, device = time.perf_counter(), get_device(device)
    report = run('full', out=folder, epochs=epochs, device=str(device))
    splits, cfg = cifar10(), replace(PRESETS['full'], epochs=epochs)
    (x, _), (train_x, train_y), (test_x, test_y) = map(
        splits.part, ('unlabelled', 'train', 'test'))
    rep = Representation.load(report.folder/'representation')
    rep.encoder.to(device)
    f, q = rep.features(train_x).cpu(), rep.features(test_x).cpu()
    linear = LinearProbe.fit(f, train_y).predict(q) == test_y
    facts = dict(
        ours=report.headline | dict(
            knn_all_labels=round(knn_accuracy(f, train_y, q, test_y), 4),
            linear_all_labels=round(linear.float().mean().item(), 4)),
        seconds=report.seconds, epochs=epochs, settings=asdict(cfg))
    if peer_epochs:
        begin = time.perf_counter()
        train, encoder = peer(x, cfg.bs, device, cfg.precision, peer_epochs)
        train()
        seconds = time.perf_counter() - begin
        encoder.eval()
        with torch.no_grad():
            f, q = (torch.cat([encoder(b.to(device).float() / 255)
                               for b in t.split(1000)]) for t in (train_x, test_x))
        facts['lightly'] = dict(
            epochs=peer_epochs, seconds=round(seconds, 1),
            knn_all_labels=round(knn_accuracy(f, train_y, q, test_y), 4))
    write(out, started, device, ['lightly'], benchmark='simclr accuracy',
          data='cifar10 (JPEG)', **facts)


if __name__ == '__main__':
    app()
