import importlib.util
from pathlib import Path

from nbdev.config import get_config

from replearn_nb.recipes.book import BOOK

cfg = get_config()
project, author = cfg.lib_name, cfg.author
copyright = cfg.copyright
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design']
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'
nb_merge_streams = True
nb_ipywidgets_js = {}  # nothing remote
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline']
myst_heading_anchors = 4
html_theme = 'sphinx_book_theme'
html_title = cfg.title
mathjax = importlib.util.find_spec('sphinx-mathjax-offline').origin
html_static_path = ['static', str(Path(mathjax).parent/'static'/'mathjax'/'tex-svg.js')]
html_css_files, html_favicon = ['site.css'], 'static/favicon.svg'
mathjax_path = 'tex-svg.js'  # served by the site itself
html_theme_options = dict(
    repository_url=cfg.git_url, repository_branch=cfg.branch, path_to_docs='nbs',
    use_repository_button=True, use_download_button=False, show_navbar_depth=2,
    launch_buttons=dict(colab_url='https://colab.research.google.com'),
    home_page_in_toc=True, navbar_persistent=[])
templates_path = ['templates']
html_context = dict(
    default_mode='auto',
    onward={f'chapters/{c.name}': c.onward for c in BOOK[:-1]},
    before={f'chapters/{c.name}': b.onward
            for b, c in zip(BOOK, BOOK[1:], strict=False)})
html_show_sourcelink = False
