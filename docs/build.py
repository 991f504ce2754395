"The site: notebooks -> nbdev's processors -> MyST in `_proc` -> Sphinx -> `_site`"
import ast
import base64
import os

os.environ['IN_TEST'] = '1'  # cells that only show something at work do nothing
import gc  # noqa: E402
import inspect  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import nbdev.showdoc  # noqa: E402
from execnb.nbio import mk_cell, read_nb, write_nb  # noqa: E402
from fastcore.docments import ShowDocRenderer, docments, empty  # noqa: E402
from fastcore.xtras import working_directory  # noqa: E402
from nbdev.config import get_config  # noqa: E402
from nbdev.doclinks import NbdevLookup, nbglob  # noqa: E402
from nbdev.processors import FilterDefaults  # noqa: E402
from results import results_page  # noqa: E402

from replearn_nb.recipes.book import BOOK  # noqa: E402

cfg = get_config()
FOLDERS = dict(data='Data', encoders='Encoders', pretext='Pretext tasks',
               transfer='Transfer')
REPOSITORY = cfg.git_url.removeprefix('https://github.com/')
COLAB = 'https://colab.research.google.com/github'


def code(text) -> str:
    "Text as code inside a table"
    return f'`{str(text).replace("|", chr(92) + "|")}`'


def plain(default) -> str:
    "A default as one would write it; a function by its name"
    text = repr(default)
    return getattr(default, '__name__', '...') if '<' in text else text


class TableRenderer(ShowDocRenderer):
    "A definition on a page: heading, signature, docstring, parameters, source"
    def _repr_markdown_(self):
        name = self.nm.replace('_', r'\_')
        parts = [f'<a id="def-{self.nm.lower()}"></a>',
                 f'{"#" * self.title_level} {name}']
        if self.sig is not None:
            shown = (str(p).split(':')[0].split('=')[0]
                     + ('' if p.default is empty else f'={plain(p.default)}')
                     for p in self.sig.parameters.values() if p.name != 'self')
            parts.append(f'```python\n{self.nm}({", ".join(shown)})\n```')
        parts += [self.docs] if self.docs else []
        rows = {k: v for k, v in docments(self.sym, full=True).items() if k != 'self'}
        if any(v.docment for v in rows.values()):
            parts.append(table(rows))
        return '\n\n'.join([*parts, self.source()]) + '\n'

    def source(self) -> str:
        "The exported code, folded, and where it stands"
        link = NbdevLookup().code(self.fn)
        at = f'[In the repository]({link.removesuffix("#LNone")})\n' if link else ''
        text = exported[self.nm.split('.')[-1]]
        return f'::::{{dropdown}} Source\n{at}\n````python\n{text}\n````\n::::'


exported = {}  # name -> source, of the notebook that is being read


def definitions(nb) -> dict:
    "The exported functions and classes of a notebook, with their source"
    found = {}
    for c in nb.cells:
        if c.cell_type == 'code' and re.search(r'^#\| *export', c.source, re.M):
            lines = c.source.splitlines()
            for node in ast.parse(c.source).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    first = min([node, *node.decorator_list], key=lambda o: o.lineno)
                    found[node.name] = '\n'.join(
                        lines[first.lineno - 1:node.end_lineno])
    return found


def table(rows: dict) -> str:
    "Parameters: name, type, default, comment"
    lines = ['| | Type | Default | Details |', '|---|---|---|---|']
    for k, v in rows.items():
        if k == 'return' and not v.docment and v.anno in (empty, None):
            continue
        anno = v.anno
        if not isinstance(anno, str):
            anno = '' if anno in (empty, None) else inspect.formatannotation(anno)
        anno = re.sub(r'\b(collections\.abc|replearn_nb[\w.]*)\.(?=[A-Z])', '', anno)
        default = '' if v.default is empty else code(plain(v.default))
        text = str(v.docment or '').replace('|', r'\|')
        name = '**Returns**' if k == 'return' else code(k)
        lines.append(f'| {name} | {code(anno) if anno else ""} | {default} | {text} |')
    return '\n'.join(lines)


def chapter_at(rel: Path):
    "The chapter of the book that a notebook is, or None"
    return next((c for c in BOOK if rel.as_posix() == f'chapters/{c.name}.ipynb'), None)


def about(nb, rel: Path) -> str:
    "What a page needs, how long it takes, and where it can be opened"
    up, chapter = '../' * (len(rel.parts) - 1), chapter_at(rel)
    if chapter:
        titles = {c.name: c.title for c in BOOK}
        needs = [f'[{titles[n]}]({n}.ipynb)' for n in chapter.needs]
    else:
        source = '\n'.join(c.source for c in nb.cells if '#| export' in c.source)
        names = re.findall(r'^from replearn_nb\.([\w.]+) import', source, re.M)
        at = {n: n.replace('.', '/').replace('recipes/', 'chapters/') for n in names}
        needs = [f'[{n}]({up}{page}.ipynb)' for n, page in at.items()]
    ran = nb.metadata['executed']
    took = (f'{ran["seconds"]} s' if ran['seconds'] < 60
            else f'{ran["seconds"] / 60:.1f} minutes')
    where = f'{REPOSITORY}/blob/{cfg.branch}/{cfg.nbs_path.name}/{rel.as_posix()}'
    return '\n'.join([
        f'**Read first:** {", ".join(needs) or "nothing"}. **Takes:** {took} on '
        f'{ran["cores"]} CPU cores, no GPU.\n',
        f'```{{button-link}} {COLAB}/{where}\n:color: primary\nOpen in Colab\n```',
        f'```{{button-link}} https://github.com/{where}\n:color: primary\n:outline:\n'
        'Notebook\n```'])


def to_myst(nb, title: str, header: str):
    "Turn what nbdev writes for Quarto into MyST"
    cells, sections = [], 0
    for c in nb.cells:
        if c.cell_type == 'raw':  # made by nbdev from the title cell
            fm = nb.frontmatter_
            text = f"# {fm.get('title', title)}\n\n*{fm.get('description', '')}*"
            c = mk_cell(f'{text}\n\n{header}', 'markdown')
        elif c.cell_type == 'code' and re.search(r'^#\| output: *asis', c.source, re.M):
            text = ''.join(''.join(o.data.get('text/markdown', ''))
                           for o in c.get('outputs', []) if 'data' in o)
            c = mk_cell(text, 'markdown')
        elif c.cell_type == 'code':
            flags = directives(c)
            c.source = re.sub(r'^#\| *[\w-]+: *.*\n?', '', c.source, flags=re.M)
            tags = c.metadata.setdefault('tags', [])
            tags += ['remove-input'] if flags.get('echo') == 'false' else []
            tags += ['hide-input'] if flags.get('code-fold') else []
            shown = c.metadata.setdefault('mystnb', {})
            if 'hide-cell' in tags:
                shown |= dict.fromkeys(('code_prompt_show', 'code_prompt_hide'),
                                       'Solution')
            if 'fig-alt' in flags:
                shown['image'] = {'alt': flags['fig-alt']}
        if c.cell_type == 'markdown':
            sections += len(re.findall('^## ', c.source, re.M))
            if not sections:  # a definition before the first section
                c.source = re.sub('^### ', '## ', c.source, flags=re.M)
        cells.append(c)
    nb.cells = cells


def texts(nb):
    "Each Markdown text of a page, as (dict, key)"
    for c in nb.cells:
        if c.cell_type == 'markdown':
            yield c, 'source'
        for o in c.get('outputs', []):
            if 'text/markdown' in o.get('data', {}):
                o['data']['text/markdown'] = ''.join(o['data']['text/markdown'])
                yield o['data'], 'text/markdown'


def link_pages(pages: dict):
    "Addresses of this site become links within it, to what has a heading there"
    base = re.escape(f'{cfg.doc_host}{cfg.doc_baseurl}/')
    anchor = re.compile(r'<a id="def-([^"]+)">')
    anchors = {rel.with_suffix('.html').as_posix():
               {a for t, k in texts(nb) for a in anchor.findall(t[k])}
               for rel, nb in pages.items()}
    link = re.compile(rf'\[([^\]]+)\]\({base}([^)#]+)(?:#([^)]+))?\)')
    no_links = re.compile(r'(^#.*$|^`{3,}.*?^`{3,}$)', re.M | re.S)  # headings, code
    for rel, nb in pages.items():
        up = '../' * (len(rel.parts) - 1)

        def local(m, up=up):
            text, page, name = m.groups()
            text = re.sub('`([^`]+)`', r'<code>\1</code>', text)
            found = name and name in anchors.get(page, ())
            to = f'{up}{page}#def-{name}' if found else f'{up}{page}'
            return f'<a class="reference internal" href="{to}">{text}</a>'

        for t, k in texts(nb):
            parts = no_links.split(t[k])
            parts[::2] = [link.sub(local, p) for p in parts[::2]]
            parts[1::2] = [link.sub(r'\1', p) for p in parts[1::2]]
            t[k] = ''.join(parts)


def directives(cell) -> dict:
    "A cell's `#| name: value` lines"
    found = re.findall(r'^#\| *([\w-]+): *(.*)$', cell.source, re.M)
    return {k: v.strip() for k, v in found}


def card_figure(nb) -> bytes:
    "The figure of a chapter whose cell says `#| card: true`"
    for c in nb.cells:
        if c.cell_type == 'code' and directives(c).get('card') == 'true':
            for o in c.outputs:
                if 'image/png' in o.get('data', {}):
                    return base64.b64decode(''.join(o['data']['image/png']))
    raise SystemExit('A chapter needs a figure in a cell with #| card: true')


def cards(proc: Path) -> str:
    "A card for each chapter, with a figure of its own"
    (proc/'cards').mkdir(parents=True, exist_ok=True)
    lines = ['::::{grid} 1 2 2 3', ':gutter: 3']
    for c in BOOK:
        figure = card_figure(read_nb(cfg.nbs_path/'chapters'/f'{c.name}.ipynb'))
        (proc/'cards'/f'{c.name}.png').write_bytes(figure)
        lines += [
            f':::{{grid-item-card}} {c.title}', f':link: chapters/{c.name}',
            ':link-type: doc', f':img-bottom: cards/{c.name}.png',
            f':img-alt: A figure of the chapter {c.title}', '', c.summary, ':::']
    return '\n'.join([*lines, '::::'])


def contents() -> str:
    "The sidebar: the book in its order, the reference, the results"
    def tree(caption, pages):
        return f'```{{toctree}}\n:hidden:\n:caption: {caption}\n' + '\n'.join(
            pages) + '\n```'

    def pages(folder):
        return [p.relative_to(cfg.nbs_path).with_suffix('').as_posix()
                for p in sorted((cfg.nbs_path/folder).glob('[!_.]*.ipynb'))]

    trees = [tree('The book', [f'chapters/{c.name}' for c in BOOK])]
    trees += [tree(name, pages(folder)) for folder, name in FOLDERS.items()]
    trees += [tree('The rest', ['core', 'representation', 'cli', 'chapters/book']),
              tree('Results', ['results']),
              tree('For contributors', pages('contributing'))]
    return '\n\n'.join(trees)


def write_sources(proc: Path):
    "What Sphinx reads: each notebook, and the page of results"
    nbdev.showdoc.BasicMarkdownRenderer = TableRenderer
    pages = {}
    for p in nbglob(cfg.nbs_path, as_path=True):
        rel = p.relative_to(cfg.nbs_path)
        nb = read_nb(p)
        header = '' if rel.name == 'index.ipynb' else about(nb, rel)
        exported.clear()
        exported.update(definitions(nb))
        with working_directory(p.parent):
            FilterDefaults()(nb)
        to_myst(nb, rel.stem, header)
        pages[rel] = nb
        if rel.name == 'index.ipynb':
            after = next(i for i, c in enumerate(nb.cells) if '## The book' in c.source)
            nb.cells.insert(after + 2, mk_cell(cards(proc), 'markdown'))
            nb.cells.append(mk_cell(contents(), 'markdown'))
    link_pages(pages)
    for rel, nb in pages.items():
        (proc/rel).parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, proc/rel)
    (proc/'results.md').write_text(results_page(cfg.config_path/'docs'),
                                   encoding='utf-8')
    shutil.copy(cfg.config_path/'docs'/'conf.py', proc)
    shutil.copytree(cfg.config_path/'docs'/'static', proc/'static')


def main():
    gc.disable()  # hardly anything is garbage here, and looking for it takes 9 s
    proc, site = cfg.config_path/'_proc', cfg.config_path/'_site'
    for folder in proc, site:
        shutil.rmtree(folder, ignore_errors=True)
    write_sources(proc)
    # in a process of its own: among a million objects it takes twice as long
    sys.exit(subprocess.run([sys.executable, *'-m sphinx -q -W --keep-going'.split(),
                             '-b', 'html', proc, site]).returncode)


if __name__ == '__main__':
    main()
