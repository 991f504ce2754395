"""Our probes beside scikit-learn's, alternating in one process on the same features.

    python benchmarks/probes.py --out probes.json

50,000 x 512 features of 10 classes: a random two-layer ReLU network of a noisy mixture,
so that they are correlated, skewed and far from separable, as a network's features are.
"""
import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from replearn_nb.core import get_device
from replearn_nb.transfer.probes import LinearProbe, knn_predict
from replearn_nb.transfer.report import device_name, versions

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


def timed(fn):
    "What `fn` gives, and the seconds it took"
    start = time.perf_counter()
    out = fn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return out, time.perf_counter() - start


def alternate(rounds, **functions):
    "Each function in turn, `rounds` times: its last result, and all its seconds"
    out, seconds = {}, {k: [] for k in functions}
    for _ in range(rounds):
        for k, fn in functions.items():
            out[k], s = timed(fn)
            seconds[k].append(s)
    return out, seconds


def linear(x, y, C, rounds, device):
    "A linear probe of one strength, and a path of seven, beside LogisticRegression"
    std = x.std(0, correction=0)
    scaled = ((x - x.mean(0)) / std).numpy()
    own, n_valid, double = x.to(device), len(x) // 10, scaled.astype('float64')
    valid = own[:n_valid], y[:n_valid]

    def peer(features):
        return LogisticRegression(C=C, max_iter=1000).fit(features, y.numpy())

    out, seconds = alternate(
        rounds,
        ours=lambda: LinearProbe.fit(own, y, strengths=[C]),
        path=lambda: LinearProbe.fit(own, y, *valid),
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

    out, seconds = alternate(
        rounds,
        ours=lambda: knn_predict(own, y, own_queries, k=k).argmax(1).cpu().numpy(),
        sklearn_cosine=lambda: peer('cosine', x.numpy(), queries.numpy()),
        sklearn_unit=lambda: peer('euclidean', unit, unit_queries))
    return seconds, {k: float((v == out['ours']).mean()) for k, v in out.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--n', type=int, default=50_000, help='labelled examples')
    parser.add_argument('--queries', type=int, default=10_000, help='k-NN queries')
    parser.add_argument('--C', type=float, default=.01, help='strength of the probe')
    parser.add_argument('--rounds', type=int, default=3, help='turns of each')
    parser.add_argument('--device', help='of ours (scikit-learn: the CPU)')
    parser.add_argument('--out', type=Path, help='write the numbers to this JSON file')
    args = parser.parse_args()
    started, device = time.perf_counter(), get_device(args.device)
    x, y = make_features(args.n + args.queries)
    x, queries, y = x[:args.n], x[args.n:], y[:args.n]

    fit, objectives = linear(x, y, args.C, args.rounds, device)
    knn, agreement = neighbours(x, y, queries, 200, args.rounds, device)
    table = Table(title=f'{args.n:,} x {x.shape[1]} on {device}, '
                        f'{torch.get_num_threads()} threads, median of {args.rounds}')
    for column in 'task', 'who', 'seconds', 'times ours', 'check':
        table.add_column(column)
    result = dict(
        benchmark='probes', n=args.n, queries=args.queries, C=args.C, seed=0,
        device=device_name(device), objectives=objectives, agreement=agreement,
        seconds={}, times_ours={}, versions=versions(),
        command=shlex.join(['python', *sys.argv]),
        minutes=round((time.perf_counter() - started) / 60, 2))
    checks = {k: f'objective {v:.2f}' for k, v in objectives.items()}
    agrees = {k: f'{v:.2%} as ours' for k, v in agreement.items()}
    for task, seconds, check in ('linear', fit, checks), ('200-NN', knn, agrees):
        for who, own in seconds.items():
            pairs = zip(own, seconds['ours'], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            result['seconds'][f'{task} {who}'] = [round(s, 3) for s in own]
            result['times_ours'][f'{task} {who}'] = round(ratio, 3)
            table.add_row(task, who, f'{statistics.median(own):.2f}', f'{ratio:.2f}',
                          check.get(who, '7 strengths'))
    Console().print(table)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
