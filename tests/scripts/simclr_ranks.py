"One step of SimCLR over all ranks, without batch norm; saves the loss and gradients"
import os
import sys

import torch
from fastai.callback.core import Callback
from safetensors.torch import save_file
from torch import nn

from replearn_nb.core import local_seed, tensor_dls
from replearn_nb.pretext.base import distributed
from replearn_nb.pretext.simclr import ranks, simclr_learner

class Net(nn.Module):
    num_features = 16

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 16)

    def forward_features(self, x):
        return self.conv(x).relu()

    def forward(self, x):
        return self.linear(self.forward_features(x).flatten(1))


class Views(nn.Module):
    "Views that depend on the image alone, so that all ranks make the same ones"
    def forward(self, x):
        first, second = x.float().div(255).chunk(2)
        return torch.cat([first, second.flip(-1) * .5])


class Keep(Callback):
    def after_backward(self):
        loss = self.loss.detach().clone()
        if ranks()[1] > 1:
            torch.distributed.all_reduce(loss)
        self.kept = {'loss': loss / ranks()[1]} | {
            n.removeprefix('module.'): p.grad.clone()
            for n, p in self.model.named_parameters()}


with local_seed(0):
    x = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    net = Net()
share = 32 // int(os.environ.get('WORLD_SIZE', 1))
dls = tensor_dls((x,), (x,), bs=share, device='cpu')
learn = simclr_learner(dls, net, Views(), progress=False)
keep = Keep()
with distributed(learn), learn.no_logging():
    learn.fit(1, .1, cbs=keep)
    if ranks()[0] == 0:
        save_file(keep.kept, sys.argv[1] + '.safetensors')
