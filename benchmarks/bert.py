"""BERT's pre-training beside transformers' BertForMaskedLM: real tokens a second

    python benchmarks/bert.py [--size mini] [--precision bf16] [--compiled]
                              [--out RESULT.json]

The same texts, weights of the same shape, masking rate, tokens a batch and optimiser,
in turns in one process. Ours packs texts into rows and computes the output layer where
tokens are hidden. The peer pads each batch to its longest text, as its users do: texts
drawn by chance (`transformers`), or of like length (`transformers_by_length`, its
`group_by_length`). Padding does not count as a token. With --compiled, our blocks are
also compiled by torch.compile. The operations a second of the network's products
(attention's over whole rows, as they are done) are told beside those of one large
product on the same device, and beside the data sheet's where that is known.
"""
import random
import statistics
import time

import torch
from common import Device, Out, app, compare, timed, write
from transformers import BertForMaskedLM

from replearn_nb.core import (
    ReplearnError,
    get_device,
    keep_memory,
    local_seed,
    tensor_dls,
)
from replearn_nb.data.text import (
    TextPreprocessing,
    docstrings,
    pack,
    train_sentencepieces,
)
from replearn_nb.encoders.transformer import SIZES, TokenHead, bert, to_hf
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.masked_lm import BertAdamW, masked_lm_learner
from replearn_nb.transfer.report import device_name

def new_encoder(tok, size, max_len):
    with local_seed(0):
        return bert(tok.vocab_size, **SIZES[size], max_len=max_len, pad=tok.pad)


def ours(splits, tok, size, max_len, bs, device, precision, steps, compiled=False):
    "Train with replearn_nb: `steps` batches of packed rows"
    packed = pack(tok.encode(splits.part('unlabelled')[0]), max_len, tok)
    ids, doc = (t[:bs * steps] for t in packed)
    dls = tensor_dls((ids, doc), (ids[:1], doc[:1]), bs, device)
    encoder = new_encoder(tok, size, max_len)
    if compiled:
        for block in encoder.blocks:
            block.compile()
    learn = masked_lm_learner(dls, encoder, tok, precision=precision, progress=False)

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


def flops_a_token(size, max_len, vocab_size, rate=.15):
    "Operations of all products, forward and twice as many backward, for one token"
    depth, width = SIZES[size]['depth'], SIZES[size]['width']
    block = 12 * width**2 + 2 * max_len * width  # its weights; scores, and their use
    return 6 * (depth * block + rate * (width**2 + width * vocab_size))


PEAK = {'H100': 989e12, 'H200': 989e12, 'A100': 312e12}  # bf16, by the data sheets


def product_flops(device, precision, n):
    "Operations a second of one large product"
    kind = torch.bfloat16 if precision == 'bf16' else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))

    def ten():
        for _ in range(10):
            a @ b
    timed(ten)
    return 20 * n**3 / min(timed(ten)[1] for _ in range(5))


@app.command()
def speed(
    size: str = 'mini', max_len: int = 128, vocab_size: int = 8000, bs: int = 16,
    steps: int = 8, rounds: int = 5, precision: str = 'fp32', compiled: bool = False,
    device: Device = None, out: Out = None,
):
    "Real tokens a second of both, in turns; medians, and the median of the ratios"
    if precision not in ('fp32', 'bf16'):
        raise ReplearnError(f'The peer trains in fp32 or bf16, not {precision}')
    started, device = time.perf_counter(), get_device(device)
    splits = docstrings()
    tok = train_sentencepieces(splits.part('unlabelled')[0], vocab_size)
    args = splits, tok, size, max_len, bs, device, precision, steps
    runs = {'ours': ours(*args), 'transformers': peer(*args),
            'transformers_by_length': peer(*args, by_length=True)}
    if compiled:
        runs['ours_compiled'] = ours(*args, compiled=True)
    facts = compare(runs, rounds, 'tokens')
    product = product_flops(device, precision, 8192 if device.type == 'cuda' else 2048)
    rate = {k: v * flops_a_token(size, max_len, tok.vocab_size)
            for k, v in facts['tokens_per_second'].items() if k.startswith('ours')}
    if precision == 'bf16':
        name = device_name(device)
        facts |= {f'share_of_peak_{k}': {m: round(v / peak, 3) for m, v in rate.items()}
                  for k, peak in PEAK.items() if k in name}
    write(out, started, device, ['transformers'], benchmark='bert speed', rows=bs,
          data='docstrings', size=size, max_len=max_len, vocab_size=tok.vocab_size,
          steps=steps, precision=precision, **facts,
          teraflops={k: round(v / 1e12, 3) for k, v in rate.items()},
          teraflops_of_a_product=round(product / 1e12, 3),
          share_of_a_product={k: round(v / product, 3) for k, v in rate.items()})


if __name__ == '__main__':
    app()
