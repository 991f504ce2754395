"The site: notebooks -> nbdev's processors -> MyST in `_proc` -> Sphinx -> `_site`"
import base64
import os

os.environ['IN_TEST'] = '1'  # cells that only show something at work do nothing
import gc  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import nbdev.showdoc  # noqa: E402
from cells import (  # noqa: E402
    DefinitionRenderer,
    chapter_cells,
    definitions,
    directives,
    exported,
    fold,
    reference_cells,
    tidy_outputs,
)
from execnb.nbio import mk_cell, read_nb, write_nb  # noqa: E402
from fastcore.xtras import working_directory  # noqa: E402
from nbdev.config import get_config  # noqa: E402
from nbdev.doclinks import nbglob  # noqa: E402
from nbdev.processors import FilterDefaults  # noqa: E402
from results import results_page  # noqa: E402

from replearn_nb.recipes.book import BOOK  # noqa: E402

cfg = get_config()
FOLDERS = dict(data='Data', encoders='Encoders', pretext='Pretext tasks',
               transfer='Transfer')
REPOSITORY = cfg.git_url.removeprefix('https://github.com/')
COLAB = 'https://colab.research.google.com/github'


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
    takes = ''
    if ran := nb.metadata.get('executed'):
        took = (f'{ran["seconds"]} s' if ran['seconds'] < 60
                else f'{ran["seconds"] / 60:.1f} minutes')
        takes = f' **Takes:** {took} on {ran["cores"]} CPU cores, no GPU.'
    where = f'{REPOSITORY}/blob/{cfg.branch}/{cfg.nbs_path.name}/{rel.as_posix()}'
    return '\n'.join([
        f'**Read first:** {", ".join(needs) or "nothing"}.{takes}\n',
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
            if flags.get('code-fold') == 'true':
                fold(c, 'Code')
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
    anchor = re.compile(r' id="def-([^"]+)">')
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


def card_figure(nb) -> bytes | None:
    "The figure of a chapter whose cell says `#| card: true`, if there is one"
    for c in nb.cells:
        if c.cell_type == 'code' and directives(c).get('card') == 'true':
            for o in c.outputs:
                if 'image/png' in o.get('data', {}):
                    return base64.b64decode(''.join(o['data']['image/png']))
            raise SystemExit('A cell with #| card: true has no figure')
    return None


def is_wide(png: bytes | None) -> bool:
    "Whether a figure needs a card's whole width to be read"
    if png is None:
        return False
    width, height = (int.from_bytes(png[i:i + 4], 'big') for i in (16, 20))
    return width > 2.4 * height


def cards(table: str, proc: Path) -> str:
    "The book's table (chapter, what it shows, ...) as a card for each chapter"
    (proc/'cards').mkdir(parents=True, exist_ok=True)
    head, _, *rows = ([cell.strip() for cell in line.strip('| ').split(' | ')]
                      for line in table.strip().splitlines())
    lines = ['::::{grid} 1', ':gutter: 3']
    for link, summary, *others in rows:
        name = re.search(r'/chapters/(\w+)\.html', link)[1]
        figure = card_figure(read_nb(cfg.nbs_path/'chapters'/f'{name}.ipynb'))
        lines += [':::{grid-item-card}',
                  f':class-card: chapter{" wide" if is_wide(figure) else ""}']
        if figure:
            (proc/'cards'/f'{name}.png').write_bytes(figure)
            lines += [f':img-top: cards/{name}.png',
                      f':img-alt: A figure of the chapter {link.split("]")[0][1:]}']
        facts = [f'{title.capitalize()}: {text}' if title != 'open' else text
                 for title, text in zip(head[2:], others, strict=True)
                 if text not in ('', '–')]
        lines += ['', '\n\n'.join([f'**{link}**', summary, *facts]), ':::']
    return '\n'.join([*lines, '::::'])


def contents() -> str:
    "The sidebar: the book in its order, the reference, the results"
    def tree(caption, pages):
        return f'```{{toctree}}\n:hidden:\n:caption: {caption}\n' + '\n'.join(
            pages) + '\n```'

    def pages(folder):
        return [p.relative_to(cfg.nbs_path).with_suffix('').as_posix()
                for p in sorted((cfg.nbs_path/folder).glob('[!_.]*.ipynb'))]

    book = [f'chapters/{c.name}' for c in BOOK]
    rest = [p for p in [*pages(''), *pages('chapters')] if p not in [*book, 'index']]
    trees = [tree('The book', book)]
    trees += [tree(name, pages(folder)) for folder, name in FOLDERS.items()]
    trees += [tree('The rest', rest),
              tree('Results', ['results']),
              tree('For contributors', pages('contributing'))]
    return '\n\n'.join(trees)


def write_sources(proc: Path):
    "What Sphinx reads: each notebook, and the page of results"
    nbdev.showdoc.BasicMarkdownRenderer = DefinitionRenderer
    pages = {}
    for p in nbglob(cfg.nbs_path, as_path=True):
        rel = p.relative_to(cfg.nbs_path)
        nb = read_nb(p)
        header = '' if rel.name == 'index.ipynb' else about(nb, rel)
        exported.clear()
        exported.update(definitions(nb))
        (chapter_cells if chapter_at(rel) else reference_cells)(nb)
        with working_directory(p.parent):
            FilterDefaults()(nb)
        tidy_outputs(nb)
        to_myst(nb, rel.stem, header)
        pages[rel] = nb
        if rel.name == 'index.ipynb':
            book = next(i for i, c in enumerate(nb.cells) if '## The book' in c.source)
            table = ''.join(nb.cells[book + 1].outputs[0]['data']['text/markdown'])
            nb.cells[book + 1] = mk_cell(cards(table, proc), 'markdown')
            nb.cells.append(mk_cell(contents(), 'markdown'))
    link_pages(pages)
    for rel, nb in pages.items():
        (proc/rel).parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, proc/rel)
    (proc/'results.md').write_text(results_page(cfg.config_path/'docs'),
                                   encoding='utf-8')
    shutil.copy(cfg.config_path/'docs'/'conf.py', proc)
    for folder in 'static', 'templates':
        shutil.copytree(cfg.config_path/'docs'/folder, proc/folder)


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
