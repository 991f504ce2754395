"Run notebooks in place in a real kernel, and clean them: execute.py NOTEBOOK..."
import os
import re
import sys
from pathlib import Path

import nbformat
from execnb.nbio import read_nb, write_nb
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.config import get_config

cfg = get_config()
flags = '|'.join(cfg.tst_flags.split())
skip = re.compile(rf'^#\|\s*(eval:\s*false|({flags})\b)', re.M)
os.environ.update(IN_TEST='1', PYTHONWARNINGS='ignore')  # `nbdev_export()` does nothing


def is_progress(output) -> bool:
    "What a progress bar leaves behind"
    data = output.get('data', {})
    return ('application/vnd.jupyter.widget-view+json' in data
            or not ''.join(data.get('text/html', 'x')).strip()
            or output.get('name') == 'stderr')


def execute(path: Path):
    "Run one notebook, keep its outputs, and clean it as `nbdev_clean` does"
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    skipped = [c for c in code if skip.search(c.source)]
    for c in skipped:
        c.metadata['tags'] = [*c.metadata.get('tags', []), 'skip-execution']
    NotebookClient(nb, timeout=1200, kernel_name='python3',
                   resources={'metadata': {'path': str(path.parent)}}).execute()
    for c in skipped:
        c.metadata['tags'].remove('skip-execution')
    for c in code:
        c.outputs = [o for o in c.outputs if not is_progress(o)]
    nbformat.write(nb, path)
    nb = read_nb(path)
    clean_nb(nb, allowed_cell_metadata_keys=cfg.allowed_cell_metadata_keys.split())
    write_nb(nb, path)


for name in sys.argv[1:]:
    execute(Path(name))
