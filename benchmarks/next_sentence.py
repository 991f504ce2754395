"""What next-sentence prediction brings: the same network with and without it

    python benchmarks/next_sentence.py [--steps 1000] [--runs 3] [--out RESULT.json]

Docstrings, as many steps of as many rows each. Without the second task rows are packed
full; with it they hold a pair each and are padded, so each step sees fewer tokens (the
JSON says how many). The score is the test accuracy of a linear probe that tells a
docstring's module from 20 labels a class, the mean over five draws; validation chooses
its strength, and [CLS] or the mean.
"""
import statistics
import time

import numpy as np
from common import Device, Out, app, write

from replearn_nb.core import get_device, keep_memory, local_seed
from replearn_nb.data.text import TextPreprocessing, docstrings, train_sentencepieces
from replearn_nb.encoders.transformer import bert, cramming
from replearn_nb.pretext.base import pretrain
from replearn_nb.pretext.masked_lm import (
    masked_lm_learner,
    pair_up,
    start_from_frequencies,
)
from replearn_nb.representation import Representation
from replearn_nb.transfer.labels import accuracy, draw_per_class
from replearn_nb.transfer.probes import probe_method

PARTS = 'train', 'valid', 'test'


def probed(encoder, pre, splits, device):
    "Test accuracy of a probe with 20 labels a class, the mean over five draws"
    y, f = {p: splits.part(p)[1] for p in PARTS}, []
    for encoder.pool in 'cls', 'mean':
        rep = Representation(encoder, pre)
        f.append({p: rep.features(pre.prepare(splits.part(p)[0]), device=device)
                  for p in PARTS})
    method = probe_method(*f, y=y, n_classes=splits.n_classes)
    scores = [accuracy(y['test'], method(draw_per_class(y['train'], 20, seed), seed))
              for seed in range(5)]
    return statistics.mean(scores)


@app.command()
def compare(
    steps: int = 1000, runs: int = 3, width: int = 64, max_len: int = 128,
    bs: int = 16, rate: float = .3, lr: float = 8e-3, paper: bool = False,
    device: Device = None, out: Out = None,
):
    "Probe accuracy with and without the second task; `--paper`: BERT, not cramming"
    started, device = time.perf_counter(), get_device(device)
    splits = docstrings()
    tok = train_sentencepieces(splits.part('unlabelled')[0], 2000)
    loaders = dict(masked=splits.dls(bs, tok, max_len, device),
                   both=splits.dls(bs, tok, max_len, device, rows=pair_up))
    scores, facts = {k: [] for k in ('untrained', *loaders)}, {}
    make, pre = bert if paper else cramming, TextPreprocessing(tok, max_len)
    keep_memory()
    for seed in range(runs):
        for name, dls in loaders.items():
            with local_seed(seed):
                encoder = make(tok.vocab_size, 2, width, 2, max_len=max_len,
                               pad=tok.pad).to(device)
            if name == 'masked':
                scores['untrained'].append(probed(encoder, pre, splits, device))
            learn = masked_lm_learner(dls, encoder, tok, rate, seed=seed,
                                      progress=False, next_sentence=name == 'both')
            start_from_frequencies(learn, tok)
            epochs = max(1, round(steps / len(dls.train)))
            pretrain(learn, epochs, lr=lr, wd=.01)
            scores[name].append(probed(encoder, pre, splits, device))
            ids = dls.train.tensors[0]
            valid = [round(float(v), 4) for v in learn.recorder.values[-1][1:]]
            facts[name] = dict(
                steps=epochs * len(dls.train), valid=valid,
                tokens_a_step=round(float((ids != tok.pad).float().mean()) * bs
                                    * max_len))
            print(name, seed, scores[name][-1], facts[name], flush=True)
    gain = np.subtract(scores['both'], scores['masked'])
    write(out, started, device, benchmark='next sentence', data='docstrings',
          encoder=make.__name__, width=width, max_len=max_len, rows=bs, runs=runs,
          rate=rate, lr=lr, arms=facts, accuracy=scores,
          gain=dict(mean=round(float(gain.mean()), 4),
                    sd=round(float(np.std(gain, ddof=1)), 4) if runs > 1 else None))


if __name__ == '__main__':
    app()
