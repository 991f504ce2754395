"The page of results, from what was measured (`results/*.json`) and what was published"
import json
from pathlib import Path

from replearn_nb.recipes.book import BOOK

MISSING, NONE = 'not measured yet', '–'
INTRO = '''# Results

*What was measured, beside what papers and other libraries publish.*

Numbers in the column "ours" come from the files in `docs/results`, each written by the
command that stands below. A published number that was measured under other conditions
says which. Where a number is missing, it says so.
'''


def number(value) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def found(at, files: dict) -> str:
    "A cell: text as it stands, or what a file says under some keys"
    if at is None or isinstance(at, str):
        return at or NONE
    name, *keys = at
    value = files.get(name)
    for k in keys:
        value = value[k] if value is not None else None
    return MISSING if value is None else number(value)


def minutes(result: dict) -> str:
    "How long it took, from a report or a benchmark"
    took = result.get('minutes')
    if took is None:
        took = result['seconds']['total'] / 60
    return f'{took:.1f}'


def comparison(published: list, files: dict) -> str:
    "Each chapter's numbers: the paper's, a peer's, ours"
    lines = []
    sections = {c.name: c.title for c in BOOK} | {None: 'The library'}
    for name, title in sections.items():
        rows = [r for r in published if r['chapter'] == name]
        if rows:
            lines += [f'\n## {title}\n',
                      '| what | paper | peer | ours | hardware | minutes | seed |',
                      '|---|---|---|---|---|---|---|']
        for r in rows:
            file = files.get(r['ours'][0])
            facts = ([file['device'], minutes(file), file['seed']] if file
                     else [NONE] * 3)
            numbers = [found(r[k], files) for k in ('paper', 'peer', 'ours')]
            lines.append(f'| {" | ".join(map(str, [r["what"], *numbers, *facts]))} |')
    return '\n'.join(lines)


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
             '\n## The files, and the commands that wrote them\n']
    return '\n'.join(parts + [one_file(k, v) for k, v in files.items()]) + '\n'
