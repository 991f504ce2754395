"README.md from nbs/index.ipynb"
import os

os.environ['IN_TEST'] = '1'  # `nbdev_export()` in a notebook does nothing
import re  # noqa: E402
import shutil  # noqa: E402
from pathlib import Path  # noqa: E402

import nbformat  # noqa: E402
from execnb.nbio import nb2str, read_nb  # noqa: E402
from fastcore.xtras import working_directory  # noqa: E402
from nbconvert import MarkdownExporter  # noqa: E402
from nbdev.config import get_config  # noqa: E402
from nbdev.processors import FilterDefaults  # noqa: E402
from traitlets.config import Config  # noqa: E402

FIGURES = 'docs/readme'  # where the README's figures lie


def readme(root: Path) -> tuple[str, dict]:
    "The text of README.md, and its figures (name -> bytes)"
    cfg = get_config()
    nb = read_nb(root/cfg.nbs_path.name/cfg.readme_nb)
    with working_directory(cfg.nbs_path):
        FilterDefaults()(nb)
    title = nb.frontmatter_
    nb.cells[0].update(cell_type='markdown',
                       source=f"# {title['title']}\n\n> {title['description']}")
    nb.metadata['language_info'] = {'name': 'python'}
    sources = '\n'.join(c.source for c in nb.cells)
    alts = re.findall(r'^#\| fig-alt: (.+)$', sources, re.M)
    for c in nb.cells:
        if c.cell_type == 'code':
            c.setdefault('execution_count', None)
            hide = ['remove-input'] if '#| echo: false' in c.source else []
            c.metadata['tags'] = c.metadata.get('tags', []) + hide
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
        else:
            c.pop('outputs', None)
            c.pop('execution_count', None)
    resources = {'unique_key': 'fig', 'output_files_dir': FIGURES}
    config = Config(TagRemovePreprocessor=dict(
        enabled=True, remove_input_tags={'remove-input'}))
    text, res = MarkdownExporter(config=config).from_notebook_node(
        nbformat.reads(nb2str(nb), 4), resources)
    for alt in alts:
        text = text.replace('![png](', f'![{alt}](', 1)
    site = re.escape(f'{cfg.doc_host}{cfg.doc_baseurl}/')
    text = re.sub(rf'({site}[^)#]+#)', r'\1def-', text)  # a definition's anchor there
    return text.strip() + '\n', res['outputs']


if __name__ == '__main__':
    root = get_config().config_path
    text, figures = readme(root)
    shutil.rmtree(root/FIGURES, ignore_errors=True)
    for name, data in figures.items():
        (root/name).parent.mkdir(exist_ok=True, parents=True)
        (root/name).write_bytes(data)
    (root/'README.md').write_text(text, encoding='utf-8')
