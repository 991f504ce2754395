"One step of masked LM over all ranks, masks given; saves the loss and gradients"
import os
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from replearn_nb.core import local_seed
from replearn_nb.encoders.transformer import bert
from replearn_nb.pretext.masked_lm import (
    MaskedLM,
    choose_masked,
    mask_tokens,
    masked_loss,
)

with local_seed(0):
    model = MaskedLM(bert(40, 1, 32, 2, max_len=32, dropout=0.))
    ids, doc = torch.randint(5, 40, (16, 32)), torch.ones(16, 32).long()
    ids[:6, 9:], doc[:6, 9:] = 0, 0  # the first rank has fewer tokens to guess
    where, real = choose_masked(ids, torch.arange(5), .3)
    seen, target = mask_tokens(ids, where, real, 4, torch.arange(5, 40))
world, rank = (int(os.environ.get(k, d)) for k, d in (('WORLD_SIZE', 1), ('RANK', 0)))
if world > 1:
    dist.init_process_group('gloo')
    model = DistributedDataParallel(model)
mine = [t.chunk(world)[rank] for t in (seen, doc, where, target)]
loss = masked_loss(model(*mine[:3]), mine[3])
loss.backward()
loss = loss.detach()
if world > 1:
    dist.all_reduce(loss)
if rank == 0:
    save_file({'loss': loss / world} | {
        n.removeprefix('module.'): p.grad for n, p in model.named_parameters()
        if p.grad is not None}, sys.argv[1] + '.safetensors')
if world > 1:
    dist.destroy_process_group()
