"""Run notebooks in place in a real kernel, and clean them: execute.py NOTEBOOK...

`execute.py --check` lists the notebooks whose outputs are older than the code, and
exits with 1 if there are any."""
import ast
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from execnb.nbio import read_nb, write_nb
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob

root = Path(__file__).resolve().parents[1]
package = root/'replearn_nb'


def code_cells(nb) -> list[str]:
    return [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(nb) -> str:
    "Of a notebook's code cells: outputs with another one are out of date"
    return digest('\0'.join(code_cells(nb)))


def imports(tree: ast.AST, here: tuple[str, ...] = ()) -> set[str]:
    "The package's own modules that code in the module `here` imports: {'data.images'}"
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = list(here[:-node.level] if node.level else ())
            base += node.module.split('.') if node.module else []
            parts = {'.'.join([*base, a.name]) for a in node.names}
            parts = {m for m in parts if source_of(m)}  # a module of a package
            found |= parts or {'.'.join(base)}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    ours = 'replearn_nb.'
    return {m.removeprefix(ours) for m in found if m.startswith(ours)}


def source_of(module: str) -> Path | None:
    "The file of a module 'replearn_nb.data.images'"
    path = root/Path(*module.split('.')).with_suffix('.py')
    return path if module.startswith('replearn_nb.') and path.exists() else None


def imports_of(path: Path) -> set[str]:
    "The package's own modules that one of its files imports"
    here = path.relative_to(root).with_suffix('').parts
    return imports(ast.parse(path.read_text()), here)


def plain(node):
    "A syntax tree without docstrings, line numbers and what Python versions differ in"
    if isinstance(node, list):
        return [plain(o) for o in node if not (
            isinstance(o, ast.Expr) and isinstance(o.value, ast.Constant))]
    if isinstance(node, ast.AST):
        return [type(node).__name__, *((k, plain(v)) for k, v in ast.iter_fields(node)
                                       if v is not None and v != [])]
    return repr(node)


def modules_fingerprint(nb) -> str:
    "Of all modules that a notebook imports, and that these import, without comments"
    transform, waiting, seen = TransformerManager().transform_cell, set(), {}
    for source in code_cells(nb):
        waiting |= imports(ast.parse(transform(source)))
    while waiting:
        m = waiting.pop()
        path = source_of(f'replearn_nb.{m}')
        if path and m not in seen:
            seen[m] = str(plain(ast.parse(path.read_text())))
            waiting |= imports_of(path)
    return digest('\0'.join(f'{m} {seen[m]}' for m in sorted(seen)))


def notebooks() -> list[Path]:
    return sorted(nbglob(get_config(path=root).nbs_path, as_path=True))


def stale(path: Path) -> str:
    "What has changed since a notebook's outputs were stored; '' if nothing has"
    nb = json.loads(path.read_text())
    stored = nb['metadata'].get('executed', {})
    if stored.get('code') != fingerprint(nb):
        return 'its code'
    moved = stored.get('modules') != modules_fingerprint(nb)
    return 'modules that it imports' if moved else ''


def is_progress(output) -> bool:
    "What a progress bar leaves behind"
    data = output.get('data', {})
    return ('application/vnd.jupyter.widget-view+json' in data
            or not ''.join(data.get('text/html', 'x')).strip()
            or output.get('name') == 'stderr')


def run(path: Path):
    "A notebook with the outputs of a real kernel, claims included; raises if it fails"
    flags = set(get_config(path=root).tst_flags.split()) - {'claim'}
    skip = re.compile(rf'^#\|\s*(eval:\s*false|({"|".join(flags)})\b)', re.M)
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    skipped = [c for c in code if skip.search(c.source)]
    for c in skipped:
        c.metadata['tags'] = [*c.metadata.get('tags', []), 'skip-execution']
    # `nbdev_export()` in a notebook does nothing
    env = os.environ | dict(IN_TEST='1', PYTHONWARNINGS='ignore')
    start = time.perf_counter()
    NotebookClient(nb, timeout=1200, kernel_name='python3',
                   resources={'metadata': {'path': str(path.parent)}}).execute(env=env)
    seconds = round(time.perf_counter() - start)
    for c in skipped:
        c.metadata['tags'].remove('skip-execution')
        c.outputs = []
    for c in code:
        c.outputs = [o for o in c.outputs if not is_progress(o)]
    nb.metadata.pop('widgets', None)  # of progress bars
    nb.metadata['executed'] = dict(
        code=fingerprint(nb), modules=modules_fingerprint(nb), seconds=seconds,
        cores=os.cpu_count())
    return nb


def execute(path: Path):
    "Run one notebook, keep its outputs, and clean it as `nbdev_clean` does"
    cfg, nb = get_config(path=root), run(path)
    nbformat.write(nb, path)
    seconds, nb = nb.metadata['executed']['seconds'], read_nb(path)
    clean_nb(nb, allowed_metadata_keys=cfg.allowed_metadata_keys.split(),
             allowed_cell_metadata_keys=cfg.allowed_cell_metadata_keys.split())
    write_nb(nb, path)
    print(f'{path}: {seconds} s')


def check() -> int:
    "List the notebooks whose outputs are older than the code; the exit code"
    found = {path: stale(path) for path in notebooks()}
    for path, why in found.items():
        if why:
            print(f'{path.relative_to(root)}: {why} changed since it was executed')
    return int(any(found.values()))


if __name__ == '__main__':
    if sys.argv[1:] == ['--check']:
        sys.exit(check())
    for name in sys.argv[1:]:
        execute(Path(name))
