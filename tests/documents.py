"The scripts of docs/, as modules"
import importlib.util
from functools import cache
from pathlib import Path

root = Path(__file__).resolve().parents[1]


@cache
def script(name):
    spec = importlib.util.spec_from_file_location(name, root/'docs'/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
