"Downloads against a real server: right, wrong and cut bytes, and kills on the way"
import hashlib
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from replearn_nb.core import ReplearnError
from replearn_nb.data import sources
from replearn_nb.data.sources import SOURCES, Source, fetch, github

BODY = bytes(range(256)) * 2000
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        kind = self.path.strip('/')
        if kind == 'missing':
            self.send_error(404)
            return
        body = b'x' * len(BODY) if kind == 'wrong' else BODY
        body = body[:1000] if kind in ('cut', 'short') else body
        self.send_response(200)
        if kind != 'short':  # then the end of the connection is the end of the file
            self.send_header('Content-Length', str(len(BODY)))
        self.end_headers()
        for i in range(0, len(body), 2**16):
            self.wfile.write(body[i:i + 2**16])
            self.wfile.flush()
            if kind == 'slow':
                time.sleep(.5)

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def server():
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        httpd.handle_error = lambda *args: None  # a client that was killed
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.delenv('REPLEARN_DATA', raising=False)
    return tmp_path/'cache/replearn_nb/toy'


@pytest.fixture
def toy(monkeypatch):
    def make(url):
        source = Source('toy/data.bin', url, SHA, len(BODY), 'none')
        monkeypatch.setitem(SOURCES, 'toy', (source,))
    return make


def message(fn, *args):
    with pytest.raises(ReplearnError) as e:
        fn(*args)
    text = str(e.value)
    assert '\n' not in text
    return text


def test_download_once(server, toy, cache, capsys):
    toy(f'{server}/right')
    before = Handler.requests
    path = fetch('toy', 'data.bin')
    assert path == cache/'data.bin' and path.read_bytes() == BODY
    assert fetch('toy') == [path]
    assert Handler.requests == before + 1
    assert os.listdir(cache) == ['data.bin']
    err = capsys.readouterr().err  # a log file: one line, no control characters
    assert err == f'Fetching {server}/right (0.5 MB)\n'


def test_bar_on_a_screen(server, toy, cache, monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, 'stderr', screen)
    toy(f'{server}/right')
    fetch('toy')
    assert '100%' in screen.getvalue()


def test_an_md5_where_no_other_is_published(server, cache, monkeypatch, capsys):
    md5 = f'md5:{hashlib.md5(BODY).hexdigest()}'
    for kind in 'wrong', 'right':
        source = Source('toy/data.bin', f'{server}/{kind}', md5, 0, 'none')
        monkeypatch.setitem(SOURCES, 'toy', (source,))
        if kind == 'wrong':
            assert 'what was downloaded has another md5' in message(fetch, 'toy')
    assert fetch('toy')[0].read_bytes() == BODY
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f'Fetching {server}/right'
    (cache/'data.bin').write_bytes(b'half')  # what does not fit is fetched again
    assert fetch('toy')[0].read_bytes() == BODY


@pytest.mark.parametrize('kind, what', [
    ('wrong', 'what was downloaded has another sha256'),
    ('cut', 'the download was cut'),
    ('short', f'the download was cut at 1000 of {len(BODY)} bytes'),
    ('missing', 'its server answers 404'),
])
def test_faults(server, toy, cache, kind, what):
    toy(f'{server}/{kind}')
    text = message(fetch, 'toy')
    for part in ('toy/data.bin', what, f'{server}/{kind}', str(cache/'data.bin')):
        assert part in text
    assert os.listdir(cache) == []
    toy(f'{server}/right')  # and the next try succeeds
    assert fetch('toy')[0].read_bytes() == BODY


def test_no_network(toy, cache):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))  # bound, but nobody listens
        toy(f'http://127.0.0.1:{s.getsockname()[1]}/data.bin')
        assert 'no connection to its server' in message(fetch, 'toy')
    toy('http://no-such-host.invalid/data.bin')
    assert 'no connection to its server' in message(fetch, 'toy')
    assert os.listdir(cache) == []


def test_damaged_cache_is_fetched_again(server, toy, cache):
    toy(f'{server}/right')
    cache.mkdir(parents=True)
    (cache/'data.bin').write_bytes(BODY[:-1])
    assert fetch('toy')[0].read_bytes() == BODY


def test_folder_of_ones_own(server, toy, cache, tmp_path, monkeypatch):
    toy(f'{server}/right')
    own = tmp_path/'own'
    (own/'toy').mkdir(parents=True)
    monkeypatch.setenv('REPLEARN_DATA', str(own))
    assert fetch('toy') == [cache/'data.bin']  # not there: cache and network
    (own/'toy/data.bin').write_bytes(BODY)
    assert fetch('toy') == [own/'toy/data.bin']
    (own/'toy/data.bin').write_bytes(BODY[:-1] + b'x')
    assert f'{own}/toy/data.bin is damaged' in message(fetch, 'toy')
    assert len(list(own.rglob('*.*'))) == 1  # nothing is written there
    monkeypatch.setenv('REPLEARN_DATA', str(tmp_path/'typo'))
    assert 'there is no such folder' in message(fetch, 'toy')


def test_cache_that_cannot_be_written(server, toy, tmp_path, monkeypatch):
    monkeypatch.delenv('REPLEARN_DATA', raising=False)
    (tmp_path/'cache').write_text('a file in the place of a folder')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    toy(f'{server}/right')
    assert message(fetch, 'toy').startswith(f"Can't write {tmp_path}/cache/")


def test_full_disk(server, toy, cache, monkeypatch):
    def full(self, url, output_file, pooch):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(sources.pooch.HTTPDownloader, '__call__', full)
    toy(f'{server}/right')
    assert message(fetch, 'toy').endswith('No space left on device')
    assert os.listdir(cache) == []


@pytest.mark.parametrize('sig', [signal.SIGKILL, signal.SIGINT])
def test_killed_download(server, toy, cache, sig):
    "A real process, killed in the middle, leaves nothing at the file's place"
    code = f'''
        from replearn_nb.data.sources import SOURCES, Source, fetch
        SOURCES['toy'] = (Source('toy/data.bin', {server + '/slow'!r}, {SHA!r},
                                 {len(BODY)}, 'none'),)
        fetch('toy')
    '''
    child = subprocess.Popen([sys.executable, '-c', textwrap.dedent(code)],
                             stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not any(f.stat().st_size for f in cache.glob('.*')):  # it has begun
        assert time.time() < deadline and child.poll() is None
        time.sleep(.02)
    child.send_signal(sig)
    assert child.wait(timeout=30) != 0
    left = os.listdir(cache)
    assert 'data.bin' not in left
    assert len(left) == (sig == signal.SIGKILL)  # Ctrl-C cleans up after itself
    for name in left:
        os.utime(cache/name, (0, 0))  # long ago
    toy(f'{server}/right')
    assert fetch('toy')[0].read_bytes() == BODY
    assert os.listdir(cache) == ['data.bin']


def test_github_addresses_are_pinned():
    a, b = github('d', 'o/r/' + 'c' * 40 + '/f', 'MIT', {'x': (1, 'h'), 'y': (2, 'i')})
    url = 'https://raw.githubusercontent.com/o/r/' + 'c' * 40 + '/f/x'
    assert a == Source('d/x', url, 'h', 1, 'MIT')
    assert (b.path, b.size, b.checksum) == ('d/y', 2, 'i')


def test_data_at_hand_matches_the_table():
    "Where REPLEARN_DATA has a data set, its files have the sizes and sums of the table"
    root = os.environ.get('REPLEARN_DATA')
    if not root or not Path(root, 'fashion_mnist').is_dir():
        pytest.skip('REPLEARN_DATA has no data set of the table')
    for path, source in zip(fetch('fashion_mnist'), SOURCES['fashion_mnist'],
                            strict=True):
        assert path.stat().st_size == source.size
