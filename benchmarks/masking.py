"""What share of the tokens to hide: a linear probe on docstrings' validation texts.

    python benchmarks/masking.py --out masking.json

Pre-training is the chapter's; the probe has 20 labels per class, five draws.
"""
import time
from dataclasses import replace

import torch
from common import Out, app, write

from replearn_nb.data.text import docstrings, train_sentencepieces
from replearn_nb.pretext.base import pretrain
from replearn_nb.recipes.bert import PRESETS, make_learner
from replearn_nb.representation import Representation
from replearn_nb.transfer.labels import LabelTask, Method, label_efficiency
from replearn_nb.transfer.probes import probe_method

@app.command()
def main(rates: list[float] = (.15, .6), seeds: int = 3, out: Out = None):
    started, splits, device = time.perf_counter(), docstrings(), torch.device('cpu')
    (texts, y), (new, y_new) = splits.part('train'), splits.part('valid')
    task, found = LabelTask(y, y_new), {}
    for rate in rates:
        cfg = replace(PRESETS['quick'], mask_ratio=rate)
        tok = train_sentencepieces(splits.part('unlabelled')[0], cfg.vocab_size)
        found[f'{rate:.0%}'] = []
        for seed in range(seeds):
            learn = make_learner(splits, tok, cfg, device, seed)
            pretrain(learn, cfg.epochs, cfg.lr, cfg.wd)
            rep = Representation.from_learner(learn)
            f = {p: rep.features(rep.preprocessing.prepare(t))
                 for p, t in dict(train=texts, test=new).items()}
            probe = [Method('probe', probe_method(f, splits.n_classes), True)]
            df = label_efficiency(task, probe, [20], cfg.draws, progress=False)
            found[f'{rate:.0%}'].append(round(df.score.mean(), 4))
    write(out, started, device, accuracy=found)


if __name__ == '__main__':
    app()
