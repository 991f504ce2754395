"A short masked-LM run into a folder; says each epoch that it starts"
import torch
from to_the_end import train

from replearn_nb.core import local_seed, tensor_dls
from replearn_nb.data.text import Tokenizer
from replearn_nb.encoders.transformer import bert
from replearn_nb.pretext.masked_lm import masked_lm_learner

class Numbers(Tokenizer):
    "40 tokens, of which the first five are special"
    pad, unk, cls, sep, mask = range(5)
    vocab_size, kind, file, data = 40, 'numbers', 'none', b''


def learner(**kwargs):
    with local_seed(0):
        ids, doc = torch.randint(5, 40, (96, 32)).int(), torch.ones(96, 32).short()
        ids[:, 16:], doc[:, 20:] = ids[:, :16], 2
        dls = tensor_dls((ids, doc), (ids[:16], doc[:16]), bs=16, device='cpu')
        encoder = bert(40, 1, 32, 2, max_len=32, pad=0)  # with dropout
        return masked_lm_learner(dls, encoder, Numbers(), progress=False, **kwargs)


if __name__ == '__main__':
    train(learner(), 1e-2)
