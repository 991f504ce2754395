"""Our probes beside scikit-learn's, alternating in one process on the same features.

    python benchmarks/probes.py --out probes.json

50,000 x 512 features of 10 classes: a random two-layer ReLU network of a noisy mixture,
so that they are correlated, skewed and far from separable, as a network's features are.
"""
import statistics
import time

import numpy as np
import torch
from common import Device, Out, alternate, app, write
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from replearn_nb.core import get_device
from replearn_nb.transfer.probes import LinearProbe, knn_predict

def make_features(n, d=512, n_classes=10, seed=0):
    "Features and labels: a random ReLU network of a mixture of Gaussians"
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, n_classes, (n,), generator=g)
    latent = .6 * torch.randn(n_classes, 32, generator=g)[y]
    latent += torch.randn(n, 32, generator=g)
    hidden = (latent @ torch.randn(32, 256, generator=g) / 32**.5).relu()
    x = hidden @ torch.randn(256, d, generator=g) / 16
    return (x + .3 * torch.randn(n, d, generator=g)).relu(), y


def objective(x, y, weight, bias, C):
    "Sum of cross-entropies + |W|^2/2C, in double precision"
    weight, bias = (torch.as_tensor(a).double().cpu() for a in (weight, bias))
    logits = F.linear(x.double(), weight, bias)
    loss = F.cross_entropy(logits, y, reduction='sum')
    return (loss + weight.square().sum() / 2 / C).item()


def in_turns(rounds, **functions):
    "What each function gave last, and all its seconds"
    done = alternate(functions, rounds)
    return ({k: v[-1][0] for k, v in done.items()},
            {k: [seconds for _, seconds in v] for k, v in done.items()})


def linear(x, y, C, rounds, device):
    "A linear probe of one strength, and a choice of seven, beside LogisticRegression"
    std = x.std(0, correction=0)
    scaled = ((x - x.mean(0)) / std).numpy()
    own, double = x.to(device), scaled.astype('float64')

    def peer(features):
        return LogisticRegression(C=C, max_iter=1000).fit(features, y.numpy())

    out, seconds = in_turns(
        rounds,
        ours=lambda: LinearProbe.fit(own, y, strengths=[C]),
        choice=lambda: LinearProbe.fit(own, y),
        sklearn=lambda: peer(scaled),
        sklearn_float64=lambda: peer(double))
    scaled, ours = torch.tensor(scaled), out['ours']
    return seconds, dict(ours=objective(scaled, y, ours.weight, ours.bias, C)) | {
        k: objective(scaled, y, out[k].coef_, out[k].intercept_, C)
        for k in ('sklearn', 'sklearn_float64')}


def neighbours(x, y, queries, k, rounds, device):
    "k-NN votes beside scikit-learn's brute force, by cosine and on unit vectors"
    own, own_queries = x.to(device), queries.to(device)
    unit, unit_queries = F.normalize(x).numpy(), F.normalize(queries).numpy()

    def peer(metric, a, b):
        model = KNeighborsClassifier(
            k, metric=metric, algorithm='brute', n_jobs=-1,
            weights=lambda d: np.exp(-(d if metric == 'cosine' else d * d / 2) / .07))
        return model.fit(a, y.numpy()).predict(b)

    out, seconds = in_turns(
        rounds,
        ours=lambda: knn_predict(own, y, own_queries, k=k).argmax(1).cpu().numpy(),
        sklearn_cosine=lambda: peer('cosine', x.numpy(), queries.numpy()),
        sklearn_unit=lambda: peer('euclidean', unit, unit_queries))
    return seconds, {k: float((v == out['ours']).mean()) for k, v in out.items()}


@app.command()
def main(
    n: int = 50_000, queries: int = 10_000, C: float = .01, rounds: int = 3,
    device: Device = None, out: Out = None,
):
    "Ours beside scikit-learn's: n labelled examples, k-NN queries, strength C"
    started, device = time.perf_counter(), get_device(device)
    x, y = make_features(n + queries)
    x, asked, y = x[:n], x[n:], y[:n]

    fit, objectives = linear(x, y, C, rounds, device)
    knn, agreement = neighbours(x, y, asked, 200, rounds, device)
    table = Table('task', 'who', 'seconds', 'times ours', 'check',
                  title=f'{n:,} x {x.shape[1]}, median of {rounds}')
    facts = dict(seconds={}, times_ours={})
    checks = {k: f'objective {v:.2f}' for k, v in objectives.items()}
    agrees = {k: f'{v:.2%} as ours' for k, v in agreement.items()}
    for task, seconds, check in ('linear', fit, checks), ('200-NN', knn, agrees):
        for who, own in seconds.items():
            pairs = zip(own, seconds['ours'], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            facts['seconds'][f'{task} {who}'] = [round(s, 3) for s in own]
            facts['times_ours'][f'{task} {who}'] = round(ratio, 3)
            table.add_row(task, who, f'{statistics.median(own):.2f}', f'{ratio:.2f}',
                          check.get(who, '7 strengths, 5 folds'))
    Console().print(table)
    write(out, started, device, benchmark='probes', n=n, queries=queries, C=C,
          rounds=rounds, objectives=objectives, agreement=agreement, **facts)


if __name__ == '__main__':
    app()
