"Run notebooks in place in a real kernel, and clean them: execute.py NOTEBOOK..."
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from execnb.nbio import read_nb, write_nb
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.config import get_config

def fingerprint(nb) -> str:
    "Of a notebook's code cells: outputs with another one are out of date"
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    return hashlib.sha256('\0'.join(code).encode()).hexdigest()[:16]


def is_progress(output) -> bool:
    "What a progress bar leaves behind"
    data = output.get('data', {})
    return ('application/vnd.jupyter.widget-view+json' in data
            or not ''.join(data.get('text/html', 'x')).strip()
            or output.get('name') == 'stderr')


def execute(path: Path):
    "Run one notebook, keep its outputs, and clean it as `nbdev_clean` does"
    cfg = get_config()
    flags = '|'.join(cfg.tst_flags.split())
    skip = re.compile(rf'^#\|\s*(eval:\s*false|({flags})\b)', re.M)
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    skipped = [c for c in code if skip.search(c.source)]
    for c in skipped:
        c.metadata['tags'] = [*c.metadata.get('tags', []), 'skip-execution']
    start = time.perf_counter()
    NotebookClient(nb, timeout=1200, kernel_name='python3',
                   resources={'metadata': {'path': str(path.parent)}}).execute()
    seconds = round(time.perf_counter() - start)
    for c in skipped:
        c.metadata['tags'].remove('skip-execution')
        c.outputs = []
    for c in code:
        c.outputs = [o for o in c.outputs if not is_progress(o)]
    nb.metadata.pop('widgets', None)  # of progress bars
    nb.metadata['executed'] = dict(
        code=fingerprint(nb), seconds=seconds, cores=os.cpu_count())
    nbformat.write(nb, path)
    nb = read_nb(path)
    clean_nb(nb, allowed_metadata_keys=cfg.allowed_metadata_keys.split(),
             allowed_cell_metadata_keys=cfg.allowed_cell_metadata_keys.split())
    write_nb(nb, path)
    print(f'{path}: {seconds} s')


if __name__ == '__main__':
    # `nbdev_export()` in a notebook does nothing
    os.environ.update(IN_TEST='1', PYTHONWARNINGS='ignore')
    for name in sys.argv[1:]:
        execute(Path(name))
