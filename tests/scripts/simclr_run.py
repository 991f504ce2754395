"A short SimCLR run into a folder; says each epoch that it starts"
import sys
from pathlib import Path

import torch
from fastai.callback.core import Callback
from safetensors.torch import save_file

from replearn_nb.core import local_seed, tensor_dls
from replearn_nb.encoders.convnets import small_convnet
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.simclr import simclr_learner
from replearn_nb.pretext.views import digit_views

class Say(Callback):
    def before_train(self):
        print('epoch', self.epoch, flush=True)


out = Path(sys.argv[1])
with local_seed(0):
    x = torch.randint(0, 256, (256, 1, 8, 8), dtype=torch.uint8)
    dls = tensor_dls((x,), (x[:64],), bs=32, device='cpu')
    learn = simclr_learner(dls, small_convnet(1, 8), digit_views(), progress=False)
learn.add_cb(Say())
pretrain(learn, 8, .5, folder=out, seconds=0)
save_file({k: v.contiguous() for k, v in learn.model.state_dict().items()},
          out/'end.safetensors')
