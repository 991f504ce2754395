"""BERT's pre-training beside transformers' BertForMaskedLM: real tokens a second

    python benchmarks/bert.py [--size mini] [--precision bf16] [--out RESULT.json]

The same texts, weights of the same shape, masking rate, tokens a batch and optimiser,
in turns in one process. Ours packs texts into rows and computes the output layer where
tokens are hidden. The peer pads each batch to its longest text, as its users do: texts
drawn by chance (`transformers`), or of like length (`transformers_by_length`, its
`group_by_length`). Padding does not count as a token.
"""
import random
import statistics
import time

import torch
from common import Device, Out, app, compare, write
from transformers import BertForMaskedLM

from replearn_nb.core import get_device, keep_memory, local_seed, tensor_dls
from replearn_nb.data.text import (
    TextPreprocessing,
    docstrings,
    pack,
    train_sentencepieces,
)
from replearn_nb.encoders.transformer import SIZES, TokenHead, bert, to_hf
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.masked_lm import BertAdamW, masked_lm_learner

def new_encoder(tok, size, max_len):
    with local_seed(0):
        return bert(tok.vocab_size, **SIZES[size], max_len=max_len, pad=tok.pad)


def ours(splits, tok, size, max_len, bs, device, precision, steps):
    "Train with replearn_nb: `steps` batches of packed rows"
    packed = pack(tok.encode(splits.part('unlabelled')[0]), max_len, tok)
    ids, doc = (t[:bs * steps] for t in packed)
    dls = tensor_dls((ids, doc), (ids[:1], doc[:1]), bs, device)
    learn = masked_lm_learner(dls, new_encoder(tok, size, max_len), tok,
                              precision=precision, progress=False)

    def train():
        pretrain(learn, 1, 1e-4, .01)
        return int((doc > 0).sum())
    return train


def mask(ids, tok):
    "What transformers' DataCollatorForLanguageModeling does, on a tensor"
    labels = ids.clone()
    special = torch.isin(ids, torch.tensor(tok.special))
    chosen = torch.rand(ids.shape).masked_fill(special, 1.) < .15
    labels[~chosen] = -100
    masked = chosen & (torch.rand(ids.shape) < .8)
    other = chosen & ~masked & (torch.rand(ids.shape) < .5)
    seen = ids.masked_fill(masked, tok.mask)
    return torch.where(other, torch.randint_like(ids, tok.vocab_size), seen), labels


def peer(splits, tok, size, max_len, bs, device, precision, steps, by_length=False):
    "Train BertForMaskedLM: batches of whole texts, padded, about as many real tokens"
    encoder = new_encoder(tok, size, max_len)
    model: BertForMaskedLM = to_hf(encoder, TokenHead(encoder)).to(device).train()
    opt, pre = BertAdamW(model.parameters()), TextPreprocessing(tok, max_len)
    encoded = tok.encode(splits.part('unlabelled')[0])
    lengths = [min(len(t), max_len - 2) + 2 for t in encoded]
    texts = max(1, round(bs * max_len / statistics.mean(lengths)))
    order = random.Random(0)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == 'bf16')

    def train():
        keep_memory(device.type == 'cpu')
        real, drawn = 0, order.sample(range(len(encoded)), texts * steps)
        if by_length:
            drawn.sort(key=lambda i: lengths[i])
        for k in range(0, len(drawn), texts):
            rows = drawn[k:k + texts]
            ids = pre.pad([encoded[i] for i in rows]).long()
            seen, labels = mask(ids, tok)
            there = (ids != tok.pad).long()
            real += int(there.sum())
            with autocast:
                loss = model(seen.to(device), attention_mask=there.to(device),
                             labels=labels.to(device)).loss
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            opt.step()
        keep_memory(False)
        return real
    return train


@app.command()
def speed(
    size: str = 'mini', max_len: int = 128, vocab_size: int = 8000, bs: int = 16,
    steps: int = 8, rounds: int = 5, precision: str = 'fp32',
    device: Device = None, out: Out = None,
):
    "Real tokens a second of both, in turns; medians, and the median of the ratios"
    started, device = time.perf_counter(), get_device(device)
    splits = docstrings()
    tok = train_sentencepieces(splits.part('unlabelled')[0], vocab_size)
    args = splits, tok, size, max_len, bs, device, precision, steps
    runs = {'ours': ours(*args), 'transformers': peer(*args),
            'transformers_by_length': peer(*args, by_length=True)}
    write(out, started, device, ['transformers'], benchmark='bert speed', rows=bs,
          data='docstrings', size=size, max_len=max_len, vocab_size=tok.vocab_size,
          steps=steps, precision=precision, **compare(runs, rounds, 'tokens'))


if __name__ == '__main__':
    app()
