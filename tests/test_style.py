"The shape of the house: imports run down the table, cells are small, lines are short"
import json
import re
from pathlib import Path

import pytest
from documents import script

root = Path(__file__).resolve().parents[1]
package = root/'replearn_nb'
imports = script('execute').imports_of  # {'data.images'}

# What each may import, by DESIGN's table; a package may also import within itself
ABOVE = dict(core=[])
for name in ('data encoders pretext representation transfer experiment recipes '
             'cli').split():
    ABOVE[name] = [*ABOVE, name]
ABOVE['encoders'] = ['core', 'encoders']
ABOVE['cli'] = list(ABOVE)
SHARED = {'pretext': {'base', 'views', 'optim'}, 'recipes': {'book'}}  # by siblings


def modules():
    files = sorted(package.rglob('*.py'))
    return [p for p in files if p.name not in ('__init__.py', '_modidx.py')]


@pytest.mark.parametrize('path', modules(), ids=lambda p: str(p.relative_to(package)))
def test_imports_run_down_the_table(path):
    layer, *rest = path.relative_to(package).with_suffix('').parts
    for m in imports(path):
        other, *name = m.split('.')
        assert other in ABOVE[layer], f'{layer} may not import {m}'
        if other == layer and layer in SHARED:
            assert name[0] in SHARED[layer], f'{rest[0]} imports its sibling {m}'


def test_imports_have_no_circle():
    graph = {'.'.join(p.relative_to(package).with_suffix('').parts): imports(p)
             for p in modules()}
    assert len(graph) > 10
    done = set()

    def visit(m, path):
        assert m not in path, f'a circle: {[*path, m]}'
        for other in graph.get(m, ()):
            if other not in done:
                visit(other, [*path, m])
        done.add(m)

    for m in graph:
        visit(m, [])


def cells(path: Path):
    for c in json.loads(path.read_text())['cells']:
        yield c['cell_type'], ''.join(c['source']), c.get('outputs', [])


notebooks = [p for p in sorted((root/'nbs').rglob('*.ipynb'))
             if '.ipynb_checkpoints' not in p.parts]


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook(path):
    chapter = 'chapters' in path.parts
    assert path.stat().st_size <= (600_000 if chapter else 100_000)
    for kind, source, outputs in cells(path):
        if kind == 'code' and '#| export' in source:
            lines = [o for o in source.splitlines() if o.strip() and o[:2] != '#|']
            most = 80 if re.search(r'^class ', source, re.M) else 40
            assert len(lines) <= most, f'a cell of {len(lines)} lines: {source[:80]}'
            for line in lines:
                assert len(line) <= 88, f'a line of {len(line)} columns: {line}'
        text = json.dumps(outputs)
        assert not any(o['output_type'] == 'error' for o in outputs)
        assert not re.search(r'\w+Warning\b', text), 'a stored warning'
        assert not re.search(r'(/home|/root|/tmp|/work|/Users)/', text), 'a path'
        assert 'widget-view' not in text, 'what a progress bar left'
