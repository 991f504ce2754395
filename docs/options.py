"Write the table from which `replearn run NAME --help` answers without torch"
import json
from importlib import import_module
from inspect import Parameter
from typing import get_args

from replearn_nb.cli import OPTIONS, options_of, recipes, source_hash

def row(option: Parameter) -> list:
    "Its name, its type, its help, and its default if there is one"
    kind, told = get_args(option.annotation)
    kind = next(t for t in (*get_args(kind), kind) if t is not type(None))
    default = [] if option.default is option.empty else [option.default]
    return [option.name, kind.__name__, told, *default]


def table() -> str:
    "The options of each recipe's `run` as JSON, a line each"
    found = []
    for name in recipes():
        run = import_module(f'replearn_nb.recipes.{name}').run
        rows = ',\n   '.join(json.dumps(row(o)) for o in options_of(run))
        facts = f'"source": "{source_hash(name)}", "about": {json.dumps(run.__doc__)}'
        found.append(f' "{name}": {{\n  {facts},\n  "options": [\n   {rows}]}}')
    return '{\n' + ',\n'.join(found) + '\n}\n'


if __name__ == '__main__':
    OPTIONS.write_text(table(), encoding='utf-8')
