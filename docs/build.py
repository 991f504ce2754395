"The site: notebooks -> nbdev's processors -> MyST in `_proc` -> Sphinx -> `_site`"
import os

os.environ['IN_TEST'] = '1'  # `nbdev_export()` in a notebook does nothing
import inspect  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import nbdev.showdoc  # noqa: E402
from execnb.nbio import mk_cell, read_nb, write_nb  # noqa: E402
from fastcore.docments import ShowDocRenderer, docments, empty  # noqa: E402
from fastcore.xtras import working_directory  # noqa: E402
from nbdev.config import get_config  # noqa: E402
from nbdev.doclinks import NbdevLookup, nbglob  # noqa: E402
from nbdev.processors import FilterDefaults  # noqa: E402
from sphinx.cmd.build import main as sphinx  # noqa: E402

from replearn_nb.recipes.book import BOOK  # noqa: E402

cfg = get_config()
FOLDERS = dict(data='Data', encoders='Encoders', pretext='Pretext tasks',
               transfer='Transfer')


def code(text) -> str:
    "Text as code inside a table"
    return f'`{str(text).replace("|", chr(92) + "|")}`'


class TableRenderer(ShowDocRenderer):
    "A definition on a page: heading, source, signature, docstring, parameters"
    def _repr_markdown_(self):
        link = NbdevLookup().code(self.fn) or ''
        name = self.nm.replace('_', r'\_')
        parts = [f'{"#" * self.title_level} {name}']
        parts += [f'[source]({link.removesuffix("#LNone")})'] if link else []
        if self.sig is not None:
            shown = (str(p).split(':')[0].split('=')[0]
                     + ('' if p.default is empty else f'={p.default!r}')
                     for p in self.sig.parameters.values() if p.name != 'self')
            parts.append(f'```python\n{self.nm}({", ".join(shown)})\n```')
        parts += [self.docs] if self.docs else []
        rows = {k: v for k, v in docments(self.sym, full=True).items() if k != 'self'}
        if any(v.docment for v in rows.values()):
            parts.append(table(rows))
        return '\n\n'.join(parts) + '\n'


def table(rows: dict) -> str:
    "Parameters: name, type, default, comment"
    lines = ['| | Type | Default | Details |', '|---|---|---|---|']
    for k, v in rows.items():
        if k == 'return' and not v.docment and v.anno in (empty, None):
            continue
        anno = v.anno
        if not isinstance(anno, str):
            anno = '' if anno in (empty, None) else inspect.formatannotation(anno)
        default = '' if v.default is empty else code(repr(v.default))
        text = str(v.docment or '').replace('|', r'\|')
        name = '**Returns**' if k == 'return' else code(k)
        lines.append(f'| {name} | {code(anno) if anno else ""} | {default} | {text} |')
    return '\n'.join(lines)


def to_myst(nb, rel: Path):
    "Turn what nbdev writes for Quarto into MyST"
    up, base = '../' * (len(rel.parts) - 1), f'{cfg.doc_host}{cfg.doc_baseurl}/'
    cells = []
    for c in nb.cells:
        if c.cell_type == 'raw':  # made by nbdev from the title cell
            fm = nb.frontmatter_
            text = f"# {fm.get('title', rel.stem)}\n\n*{fm.get('description', '')}*"
            c = mk_cell(text, 'markdown')
        elif c.cell_type == 'code' and re.search(r'^#\| output: *asis', c.source, re.M):
            text = ''.join(''.join(o.data.get('text/markdown', ''))
                           for o in c.get('outputs', []) if 'data' in o)
            c = mk_cell(text, 'markdown')
        elif c.cell_type == 'code':
            found = re.findall(r'^#\| *([\w-]+): *(.*)$', c.source, re.M)
            flags = {k: v.strip() for k, v in found}
            c.source = re.sub(r'^#\| *[\w-]+: *.*\n?', '', c.source, flags=re.M)
            tags = c.metadata.setdefault('tags', [])
            tags += ['remove-input'] if flags.get('echo') == 'false' else []
            tags += ['hide-input'] if flags.get('code-fold') else []
        if c.cell_type == 'markdown':
            c.source = c.source.replace(f']({base}', f']({up}')
        cells.append(c)
    nb.cells = cells


def contents() -> str:
    "The sidebar: the book in its order, then the reference"
    def tree(caption, pages):
        return f'```{{toctree}}\n:hidden:\n:caption: {caption}\n' + '\n'.join(
            pages) + '\n```'

    def pages(folder):
        return [p.relative_to(cfg.nbs_path).with_suffix('').as_posix()
                for p in sorted((cfg.nbs_path/folder).glob('[!_.]*.ipynb'))]

    trees = [tree('The book', [f'chapters/{c.name}' for c in BOOK])]
    trees += [tree(name, pages(folder)) for folder, name in FOLDERS.items()]
    trees += [tree('The rest', ['core', 'representation', 'cli', 'chapters/book'])]
    return '\n\n'.join(trees)


def main():
    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer
    proc, site = cfg.config_path/'_proc', cfg.config_path/'_site'
    shutil.rmtree(proc, ignore_errors=True)
    for p in nbglob(cfg.nbs_path, as_path=True):
        rel = p.relative_to(cfg.nbs_path)
        nb = read_nb(p)
        with working_directory(p.parent):
            FilterDefaults()(nb)
        to_myst(nb, rel)
        if str(rel) == 'index.ipynb':
            nb.cells.append(mk_cell(contents(), 'markdown'))
        (proc/rel).parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, proc/rel)
    shutil.copy(cfg.config_path/'docs'/'conf.py', proc)
    sys.exit(sphinx(['-q', '-W', '--keep-going', '-b', 'html', str(proc), str(site)]))


if __name__ == '__main__':
    main()
