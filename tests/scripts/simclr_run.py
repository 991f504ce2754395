"A short SimCLR run into a folder; says each epoch that it starts"
import torch
from to_the_end import train

from replearn_nb.core import local_seed, tensor_dls
from replearn_nb.encoders.convnets import small_convnet
from replearn_nb.pretext.simclr import simclr_learner
from replearn_nb.pretext.views import digit_views

with local_seed(0):
    x = torch.randint(0, 256, (256, 1, 8, 8), dtype=torch.uint8)
    dls = tensor_dls((x,), (x[:64],), bs=32, device='cpu')
    learn = simclr_learner(dls, small_convnet(1, 8), digit_views(), progress=False)
train(learn, .5)
