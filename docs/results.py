"The page of results, from what was measured (`results/*.json`) and what was published"
import json
import re
from pathlib import Path
from statistics import median

from replearn_nb.recipes.book import BOOK

INTRO = '''# Results

*What was measured, beside what papers and other libraries publish.*

Numbers in the column "ours" come from the files in `docs/results`, each written by the
command that stands below. In brackets stands a 95% interval; speeds and times are
medians of several rounds, with the lowest and the highest. The winner is **bold** where
the interval decides, or where every round of one is ahead of every round of the other.
A published number that was measured under other conditions says which. What is not
measured here yet stands at the end.
'''


def number(value) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def found(at: list, files: dict):
    "What a file says under some keys; None where there is no such file"
    name, *keys = at
    value = files.get(name)
    for k in keys:
        value = value[k] if value is not None else None
    return value


def told(value, low=None, high=None, unit='') -> str:
    "A value with its unit and its interval: 87.5%, +6.8 points (+1.8 to +11.8)"
    def text(v):
        if isinstance(v, str):
            return v
        return {'percent': f'{v:.1%}', 'points': f'{100 * v:+.1f}'}.get(
            unit, f'{v:,.4g}')

    if isinstance(value, list):  # rounds of a measurement of speed or time
        value, low, high = (f'{v:,.{int(v < 1000)}f}' for v in (
            median(value), min(value), max(value)))
    value, between = text(value), ''
    if low is not None:
        between = f'({text(low)} to {text(high)})'
    elif ' (' in value:  # '3.6 (2.8 to 4.2)'
        value, between = value.split(' (')
        between = f'({between}'
    unit = '' if unit == 'percent' else unit
    between = between.replace(' ', '\xa0')  # stays in one line
    return ' '.join(filter(None, [value, unit, between]))


def winner(ours, other, row: dict) -> int:
    "1: ours, -1: the other, 0: cannot be told"
    if isinstance(ours, list) and isinstance(other, list):
        ahead = int(min(ours) > max(other)) - int(max(ours) < min(other))
        return -ahead if row['unit'] == 's' else ahead
    if 'against' not in row:
        return 0
    if 'low' in row:
        low, high, even = other[0], other[1], 0
    else:
        between = re.search(r'\((\S+) to (\S+)\)', ours)
        if not between:
            return 0
        (low, high), even = map(float, between.groups()), 1
    return int(low > even) - int(high < even)


def bold(text: str, yes: bool) -> str:
    return f'**{text}**' if yes else text


def minutes(result: dict) -> str:
    "How long it took, from a report or a benchmark"
    took = result.get('minutes')
    if took is None:
        took = result['seconds']['total'] / 60
    return f'{took:.1f}'


def others(row: dict, files: dict, wins: bool) -> str:
    "What a value is compared with"
    peer, unit = row.get('peer'), row.get('unit', '')
    if isinstance(peer, list):
        peer = f'{row["peer_name"]}: {bold(told(found(peer, files), unit=unit), wins)}'
    against = row.get('against')
    return '; '.join(filter(None, [
        against and f'against {bold(against, wins)}',
        row.get('paper') and f'paper: {row["paper"]}', peer]))


def line(row: dict, files: dict) -> str:
    "A row of a table: one value, with its interval and its unit"
    file, unit = files[row['ours'][0]], row.get('unit', '')
    at = row['ours'][:-1]
    ends = [found([*at, row[k]], files) if k in row else None for k in ('low', 'high')]
    ours = found(row['ours'], files)
    peer = row.get('peer')
    other = found(peer, files) if isinstance(peer, list) else ends
    won = winner(ours, other, row)
    device = file['device'].replace('cpu', 'CPU').replace(' 1 threads', ' 1 thread')
    where = f'{device}, {minutes(file)} min, seed {file["seed"]}'
    return (f'| {row["what"]} | {bold(told(ours, *ends, unit), won > 0)} | '
            f'{others(row, files, won < 0)} | {where} |')


def comparison(published: list, files: dict) -> str:
    "Each chapter's numbers: ours, and what they are compared with"
    lines = []
    sections = {c.name: c.title for c in BOOK} | {None: 'The library'}
    for name, title in sections.items():
        rows = [r for r in published if r['chapter'] == name and r['ours'][0] in files]
        if rows:
            lines += [f'\n## {title}\n', '::::{div} stacked',
                      '| what | ours | beside | measured on |', '|---|---|---|---|',
                      *(line(r, files) for r in rows), '::::']
    return '\n'.join(lines)


def still_open(published: list, files: dict) -> str:
    "A list of what is not measured yet"
    rows = [r for r in published if r['ours'][0] not in files]
    lines = []
    for r in rows:
        known = [f'{k}: {r[k]}' for k in ('paper', 'peer') if isinstance(r.get(k), str)]
        lines.append(f'- {r["what"]}' + (f' ({"; ".join(known)})' if known else ''))
    head = '\n## Open\n\nNot measured here yet; most of it waits for a GPU.\n'
    return '\n'.join([head, *lines]) if lines else ''


def flat(result: dict, prefix='') -> list[tuple[str, str]]:
    "Nested facts as rows; long lists are left to the file"
    rows = []
    for k, v in result.items():
        if isinstance(v, dict):
            rows += flat(v, f'{prefix}{k}: ')
        elif isinstance(v, list) and len(str(v)) > 120:
            rows.append((prefix + k, f'{len(v)} entries, in the file'))
        else:
            rows.append((prefix + k, number(v)))
    return rows


def one_file(name: str, result: dict) -> str:
    "Everything that a file says, folded"
    rows = [f"| {k} | {v.replace(chr(124), chr(92) + chr(124))} |"
            for k, v in flat(result) if k != 'command']
    return '\n'.join([
        f'\n### {name}\n', f'```sh\n{result["command"]}\n```\n',
        ':::{dropdown} All of it', '| | |', '|---|---|', *rows, ':::'])


def results_page(docs: Path) -> str:
    "Markdown of the page"
    files = {p.name: json.loads(p.read_text()) for p in
             sorted((docs/'results').glob('*.json'))}
    published = json.loads((docs/'published.json').read_text())
    parts = [INTRO, comparison(published, files),
             '\n## The files, and the commands that wrote them\n',
             *(one_file(k, v) for k, v in files.items()), still_open(published, files)]
    return '\n'.join(parts) + '\n'
