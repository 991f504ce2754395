import os

# Before torch is imported, and for all that the tests start: threads of two processes
# on the same cores wait for each other. `--claims` gives the cores back.
THREADS = 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'
os.environ |= dict.fromkeys(THREADS, '1')

import signal  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from documents import script  # noqa: E402
from filelock import FileLock  # noqa: E402

# A shell starts what runs in its background deaf to Ctrl-C, and so would be all that
# the tests start to interrupt it
signal.signal(signal.SIGINT, signal.default_int_handler)

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'tests/scripts'))  # whose data some tests use too

# What takes long begins first, so that no worker ends with it alone
LONG = 'test_site', 'test_recipes', 'test_notebooks', 'test_cli'


def pytest_addoption(parser):
    parser.addoption(
        '--claims', nargs='?', const='moved', choices=['moved', 'all'],
        help='execute chapters whole, with all that they claim: those whose code or '
             'modules changed since their outputs were stored, or all')


def pytest_collection_modifyitems(config, items):
    "Tests of a file stay together, since they share fixtures; the longest come first"
    claims = [i for i in items if i.get_closest_marker('claims')]
    others = [i for i in items if not i.get_closest_marker('claims')]
    if config.getoption('claims'):
        claims, others = others, claims
    config.hook.pytest_deselected(items=claims)
    items[:] = others
    for item in items:
        if not item.get_closest_marker('xdist_group'):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))

    def rank(item):
        return next((i for i, n in enumerate(LONG) if item.path.stem.startswith(n)),
                    len(LONG))
    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter):
    execute = script('execute')
    moved = [p.relative_to(root) for p in execute.notebooks() if execute.stale(p)]
    if moved:
        terminalreporter.section('outputs older than the code')
        terminalreporter.line(
            ', '.join(map(str, moved)) + '. `pytest --claims` executes the chapters '
            'among them; `python docs/execute.py` stores the outputs anew')


@pytest.fixture(scope='session')
def built_site(tmp_path_factory, worker_id):
    "The folder of the site, built anew as a contributor builds it, by one worker"
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == 'master' else shared.parent
    built = shared/'site_is_built'
    with FileLock(shared/'site.lock'):
        if not built.exists():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, 'docs/build.py'], cwd=root,
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert 'WARNING' not in done.stderr, done.stderr
            print(f'docs/build.py: {time.perf_counter() - start:.0f} s')
            built.touch()
    return root/'_site'


@pytest.fixture
def stop_at(monkeypatch):
    "Interrupt when a function of a module is called the n-th time; gives the calls"
    def replace(module, name, call):
        plain, calls = getattr(module, name), []

        def counted(*args, **kwargs):
            calls.append(name)
            if len(calls) == call:
                raise KeyboardInterrupt
            return plain(*args, **kwargs)
        monkeypatch.setattr(module, name, counted)
        return calls
    return replace
