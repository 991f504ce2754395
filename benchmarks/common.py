"What the benchmarks share: runs in turns, their rates side by side, and the JSON"
import json
import os
import shlex
import statistics
import sys
import time
from importlib.metadata import version
from operator import truediv
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from replearn_nb.core import keep_memory, write_json
from replearn_nb.transfer.report import device_name, versions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Device = Annotated[str | None, typer.Option(help='None: the best there is')]
Out = Annotated[str | None, typer.Option(help='a JSON file to write')]


def timed(fn):
    "What `fn` gives, and the seconds it took"
    start = time.perf_counter()
    out = fn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return out, time.perf_counter() - start


def alternate(functions, rounds):
    "name -> (what it gave, seconds) of each round; another one begins each round"
    names, done = list(functions), {k: [] for k in functions}
    for i in range(rounds):
        for k in names[i % len(names):] + names[:i % len(names)]:
            done[k].append(timed(functions[k]))
    return done


def train_on(loss, opt, steps, device):
    "Forward, backward and step, with nothing around them"
    keep_memory(device.type == 'cpu')
    for _ in range(steps):
        value = loss()
        opt.zero_grad()
        value.backward()
        opt.step()
    keep_memory(False)


def compare(runs, rounds, unit):
    "Rates of runs that say how many items they did; `ours` to each, round by round"
    alternate(runs, 1)  # warm up, and start the workers
    rates = {k: [n / seconds for n, seconds in v]
             for k, v in alternate(runs, rounds).items()}
    median = {k: statistics.median(v) for k, v in rates.items()}
    ratios = {k: statistics.median(map(truediv, rates['ours'], rates[k]))
              for k in runs if k != 'ours'}
    table = Table('method', f'{unit}/s', 'ours / it')
    for k, v in median.items():
        table.add_row(k, f'{v:,.1f}', f'{ratios[k]:.2f}' if k in ratios else '')
    Console().print(table)
    return {
        'rounds': rounds,
        f'{unit}_per_second': {k: round(v, 1) for k, v in median.items()},
        'all_rounds': {k: [round(o, 1) for o in v] for k, v in rates.items()},
    } | {f'ours_to_{k}': round(v, 3) for k, v in ratios.items()}


def write(out, started, device, peers=(), **facts):
    "The JSON of a measurement: what, on what, how long, beside which versions"
    facts |= dict(
        device=device_name(device), cores=os.cpu_count(), seed=0,
        command=shlex.join(['python', *sys.argv]),
        minutes=round((time.perf_counter() - started) / 60, 2),
        versions=versions() | {k: version(k) for k in peers})
    if out:
        write_json(out, facts)
    else:
        print(json.dumps(facts, indent=1))
