"Code cells on a page: code in a chapter, definitions in the reference, tidy outputs"
import ast
import inspect
import re

from bs4 import BeautifulSoup
from execnb.nbio import mk_cell
from fastcore.basics import AttrDict
from fastcore.docments import ShowDocRenderer, docments, empty
from nbdev.doclinks import NbdevLookup

DEFINITION = ast.FunctionDef | ast.ClassDef
IMPORT = ast.Import | ast.ImportFrom
# What every recipe has besides its idea; `#| code-fold: true` or `false` overrules
PLUMBING = re.compile('(settings|load_splits|keep|headline|run|transfer|'
                      '(plot|check|save)_.*)$')
MACHINERY = re.compile('## (The )?(recipe|experiment|machinery)$', re.M | re.I)


def directives(cell) -> dict:
    "A cell's `#| name: value` lines"
    found = re.findall(r'^#\| *([\w-]+): *(.*)$', cell.source, re.M)
    return {k: v.strip() for k, v in found}


def is_exported(cell) -> bool:
    return cell.cell_type == 'code' and bool(
        re.search(r'^#\| *exports?\b', cell.source, re.M))


def statements(source: str) -> list[tuple[ast.stmt, str]]:
    "Each statement with its text, decorators and the comments above it included"
    lines, found, last = source.splitlines(), [], 0
    for node in ast.parse(source).body:
        text = [o for o in lines[last:node.end_lineno] if o[:2] != '#|']
        found.append((node, '\n'.join(text).strip('\n')))
        last = node.end_lineno
    return found


def names(node: ast.stmt) -> list[str]:
    "What a statement defines"
    if isinstance(node, DEFINITION):
        return [node.name]
    targets = getattr(node, 'targets', [getattr(node, 'target', None)])
    return [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]


# In a chapter

def fold(cell, label: str):
    "Fold a cell's code to one line"
    tags = cell.metadata.setdefault('tags', [])
    tags += [] if 'hide-input' in tags else ['hide-input']
    cell.metadata.setdefault('mystnb', {}).update(
        dict.fromkeys(('code_prompt_show', 'code_prompt_hide'), label))


def is_plumbing(nodes: list[ast.stmt], machinery: bool) -> bool:
    "Whether a cell's code is folded if the cell does not say"
    if not all(isinstance(n, DEFINITION) for n in nodes):
        return False  # constants are shown
    return machinery or all(PLUMBING.match(n.name) for n in nodes)


def chapter_cells(nb):
    """Exported code as code, open if it teaches and folded if it is plumbing

    Imports are folded, and so is each definition under a heading that `MACHINERY`
    matches. Links to a definition lead to the cell that holds it.
    """
    cells, machinery = [], False
    for c in nb.cells:
        if c.cell_type == 'markdown':
            for heading in re.findall('^## .*', c.source, re.M):
                machinery = bool(MACHINERY.match(heading))
        elif re.search(r'^#\| *hide\b|^ *[%!]', c.source, re.M):
            pass  # nbdev drops it, or it is no plain Python
        elif (nodes := [n for n, _ in statements(c.source)]) and all(
                isinstance(n, IMPORT) for n in nodes):
            c.source = re.sub(r'^#\| *exports?\b.*\n', '', c.source, flags=re.M)
            if cells and cells[-1].metadata.get('imports'):
                cells[-1].source += '\n' + c.source
                continue
            c.metadata['imports'] = True
            fold(c, 'Imports')
        elif is_exported(c):
            said = directives(c).get('code-fold')
            folded = said == 'true' if said else is_plumbing(nodes, machinery)
            defined = [n for node in nodes for n in names(node)]
            c.source = re.sub(r'^#\| *(exports?\b|code-fold).*\n', '', c.source,
                              flags=re.M)
            cells.append(mk_cell(''.join(f'<div id="def-{n.lower()}"></div>'
                                         for n in defined), 'markdown'))
            if folded:
                fold(c, f'Plumbing: {", ".join(defined)}')
        cells.append(c)
    nb.cells = cells


# In the reference

def reference_cells(nb):
    "One exported cell for each definition, in order; constants are shown as code"
    cells = []
    for c in nb.cells:
        if not is_exported(c):
            cells.append(c)
            continue
        shown = []  # of one constant after another
        for node, text in statements(c.source):
            hidden = isinstance(node, DEFINITION | IMPORT) or all(
                n[0] == '_' for n in names(node))
            if shown and hidden:
                cells.append(shown_code(shown))
            shown = [] if hidden else [*shown, text]
            if hidden:
                cells.append(code_cell(f'#| export\n{text}'))
        cells += [shown_code(shown)] if shown else []
    nb.cells = cells


def code_cell(source: str, **metadata):
    "A code cell as `read_nb` gives it"
    return mk_cell(source, metadata=AttrDict(metadata))


def shown_code(texts: list[str]):
    "A cell that nbdev runs and shows as it stands"
    return code_cell('#| exec_doc\n' + '\n'.join(texts), no_output=True)


def definitions(nb) -> dict:
    "The exported functions and classes of a notebook, with their source"
    return {node.name: text for c in nb.cells if is_exported(c)
            for node, text in statements(c.source) if isinstance(node, DEFINITION)}


exported = {}  # name -> source, of the notebook that is being read


class DefinitionRenderer(ShowDocRenderer):
    "A definition on a page: heading, signature, docstring, parameters, source"
    def _repr_markdown_(self):
        parts = [f'<a id="def-{self.nm.lower()}"></a>',
                 f'{"#" * self.title_level} `{self.nm}`']
        if self.sig is not None:
            shown = (str(p).split(':')[0].split('=')[0]
                     + ('' if p.default is empty else f'={plain(p.default)}')
                     for p in self.sig.parameters.values() if p.name != 'self')
            parts.append(f'```python\n{self.nm}({", ".join(shown)})\n```')
        parts += [self.docs] if self.docs else []
        rows = docments(self.sym, full=True, args_kwargs=True)
        rows = {k: v for k, v in rows.items() if k != 'self'}
        if any(v.docment for v in rows.values()):
            parts.append(f'::::{{div}} parameters\n{table(rows)}\n::::')
        return '\n\n'.join([*parts, self.source()]) + '\n'

    def source(self) -> str:
        "The exported code, folded, and where it stands"
        link = NbdevLookup().code(self.fn)
        at = f'[In the repository]({link.removesuffix("#LNone")})\n' if link else ''
        text = exported[self.nm.split('.')[-1]]
        return f'::::{{dropdown}} Source\n{at}\n````python\n{text}\n````\n::::'


def code(text) -> str:
    "Text as code inside a table"
    return f'`{str(text).replace("|", chr(92) + "|")}`'


def plain(default) -> str:
    "A default as one would write it; a function by its name"
    text = repr(default)
    return getattr(default, '__name__', '...') if '<' in text else text


def type_name(anno) -> str:
    "An annotation as one would write it: `Tensor`, not `torch.Tensor`"
    if anno in (empty, None, type(None)):
        return ''
    text = anno if isinstance(anno, str) else inspect.formatannotation(anno)
    return re.sub(r'\b(?:[A-Za-z_]\w*\.)+(?=\w)', '', text)


def table(rows: dict) -> str:
    "Parameters: name, type, default, comment"
    lines = ['| | Type | Default | Details |', '|---|---|---|---|']
    for k, v in rows.items():
        if k == 'return' and not v.docment and v.anno in (empty, None):
            continue
        stars = {inspect.Parameter.VAR_POSITIONAL: '*',
                 inspect.Parameter.VAR_KEYWORD: '**'}.get(v.get('kind'), '')
        name = '**Returns**' if k == 'return' else code(stars + k)
        anno = type_name(v.anno)
        default = '' if v.default is empty else code(plain(v.default))
        text = str(v.docment or '').replace('|', r'\|')
        lines.append(f'| {name} | {code(anno) if anno else ""} | {default} | {text} |')
    return '\n'.join(lines)


# Outputs

def visible(output) -> bool:
    "Whether there is something to see: progress bars leave HTML without a text"
    data = output.get('data')
    if data is None:
        return bool(''.join(output.get('text', 'x')).strip())
    if any(k.startswith('image/') for k in data):
        return True
    html = ''.join(data.get('text/html', ''))
    if not html:
        return bool(''.join(data.get('text/plain', 'x')).strip())
    soup = BeautifulSoup(html, 'html.parser')
    for style in soup('style'):
        style.decompose()
    return bool(soup.get_text().strip() or soup.find(['img', 'svg', 'canvas']))


def tidy_table(html: str) -> str:
    "A pandas table with one header row, and without an index that only counts"
    soup = BeautifulSoup(html, 'html.parser')
    for style in soup('style'):
        style.decompose()
    for frame in soup('table', class_='dataframe'):
        del frame['border']
        head, body = frame.thead('tr'), frame.tbody('tr')
        index = len(body[0]('th')) if body else 0  # columns that are the index
        if len(head) == 2 and not any(o.get_text() for o in head[1](['th'])[index:]):
            above, below = head[0]('th')[:index], head[1]('th')[:index]
            if not any(o.get_text() for o in above) and len(above) == index:
                for a, b in zip(above, below, strict=True):
                    a.string = b.get_text()
                head.pop().decompose()
        counts = [str(i) for i in range(len(body))]
        if index == 1 and len(head) == 1 and not head[0].th.get_text() and (
                [row.th.get_text() for row in body] == counts):
            for row in [head[0], *body]:
                row.th.decompose()
    return str(soup)


def tidy_outputs(nb):
    "Drop what shows nothing, and mend tables"
    for c in nb.cells:
        if c.cell_type == 'code' and c.get('outputs'):
            kept = not c.metadata.get('no_output')
            c.outputs = [o for o in c.outputs if kept and visible(o)]
            for o in c.outputs:
                html = ''.join(o.get('data', {}).get('text/html', ''))
                if 'class="dataframe"' in html:
                    o['data']['text/html'] = tidy_table(html)
