import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A shell starts what runs in its background deaf to Ctrl-C, and so would be all that
# the tests start to interrupt it
signal.signal(signal.SIGINT, signal.default_int_handler)

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'tests/scripts'))  # whose data some tests use too


@pytest.fixture(scope='session')
def built_site():
    "The folder of the site, built anew as a contributor builds it"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, 'docs/build.py'], cwd=root,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'WARNING' not in done.stderr, done.stderr
    print(f'docs/build.py: {time.perf_counter() - start:.0f} s')
    return root/'_site'


@pytest.fixture(scope='module')
def one_process():
    "Nothing is trained in other processes, where what a test has replaced is not"
    from replearn_nb.core import one_thread
    with one_thread():
        yield


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
