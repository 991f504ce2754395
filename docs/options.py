"Write the table from which `replearn run NAME --help` answers without torch"
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from typing import get_args

from replearn_nb.cli import options_of, recipes, source_hash
from replearn_nb.recipes import _options

HEAD = '''"The options of each recipe's `run`, by which the command knows them at once"
# Written by `python docs/options.py`: do not edit

OPTIONS = {
'''
ENTRY = '''    {name!r}: {{
        'source': {source!r},
        'about': {about!r},
        'options': [
{rows}
        ]}},
'''


def row(option: Parameter) -> tuple:
    "Its name, its type, its help, and its default if there is one"
    kind, told = get_args(option.annotation)
    kind = next(t for t in (*get_args(kind), kind) if t is not type(None))
    default = () if option.default is option.empty else (option.default,)
    return option.name, kind.__name__, told, *default


def table() -> str:
    "The module's text"
    text = HEAD
    for name in recipes():
        run = import_module(f'replearn_nb.recipes.{name}').run
        rows = '\n'.join(f'            {row(o)!r},' for o in options_of(run))
        text += ENTRY.format(name=name, source=source_hash(name), about=run.__doc__,
                             rows=rows)
    return text + '}\n'


if __name__ == '__main__':
    Path(_options.__file__).write_text(table(), encoding='utf-8')
