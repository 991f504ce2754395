"A short masked-LM run into a folder; says each epoch that it starts"
import sys
from pathlib import Path

import torch
from fastai.callback.core import Callback
from safetensors.torch import save_file

from replearn_nb.core import local_seed, tensor_dls
from replearn_nb.data.text import Tokenizer
from replearn_nb.encoders.transformer import bert
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.masked_lm import masked_lm_learner

class Numbers(Tokenizer):
    "40 tokens, of which the first five are special"
    pad, unk, cls, sep, mask = range(5)
    vocab_size, kind, file, data = 40, 'numbers', 'none', b''


class Say(Callback):
    def before_train(self):
        print('epoch', self.epoch, flush=True)


def learner(**kwargs):
    with local_seed(0):
        ids, doc = torch.randint(5, 40, (96, 32)).int(), torch.ones(96, 32).short()
        ids[:, 16:], doc[:, 20:] = ids[:, :16], 2
        dls = tensor_dls((ids, doc), (ids[:16], doc[:16]), bs=16, device='cpu')
        encoder = bert(40, 1, 32, 2, max_len=32, pad=0)  # with dropout
        return masked_lm_learner(dls, encoder, Numbers(), progress=False, **kwargs)


if __name__ == '__main__':
    out, learn = Path(sys.argv[1]), learner()
    learn.add_cb(Say())
    pretrain(learn, 8, 1e-2, folder=out, seconds=0)
    save_file({k: v.contiguous() for k, v in learn.model.state_dict().items()},
              out/'end.safetensors')
