"Core: files, folders, settings, devices and batches, when things go wrong"
import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastai.callback import progress  # noqa: F401 (it extends Learner)
from fastai.learner import Learner
from filelock import FileLock
from torch import nn

from replearn_nb import core
from replearn_nb.core import (
    ReplearnError,
    TensorDL,
    atomic_path,
    by_umask,
    get_device,
    run_folder,
    tensor_dls,
    write_json,
    write_text,
)

def test_errors_of_the_caller_keep_their_own_name(tmp_path):
    "Only what concerns the file that is written is told as its fault"
    with pytest.raises(FileNotFoundError, match='missing'), \
            atomic_path(tmp_path/'out.txt'):
        open(tmp_path/'missing')
    with pytest.raises(ConnectionError, match='no network'), \
            atomic_path(tmp_path/'out.txt'):
        raise ConnectionError('no network')
    for e in OSError(errno.ENOSPC, 'No space left'), PermissionError(13, 'Denied', 'x'):
        with pytest.raises(ReplearnError, match="Can't write .*out.txt: "), \
                atomic_path(tmp_path/'out.txt') as tmp:
            e.filename = str(tmp) if e.filename else None
            raise e
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('umask', [0o022, 0o027, 0o077])
def test_files_and_folders_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path/'a.txt', 'a')
        (tmp_path/'private').mkdir(mode=0o700)
        by_umask(tmp_path/'private')
        (tmp_path/'usual').mkdir()
        (tmp_path/'usual.txt').write_text('')
    finally:
        os.umask(before)
    mode = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert mode['a.txt'] == mode['usual.txt']
    assert mode['private'] == mode['usual']


KILLED = '''
import os, signal, sys
from replearn_nb.core import atomic_path, run_folder
with run_folder('simclr', sys.argv[1]) as folder, \\
        atomic_path(folder/'checkpoint.pt') as tmp:
    tmp.write_bytes(b'half')
    os.kill(os.getpid(), signal.SIGKILL)
'''


def test_killed_while_it_writes(tmp_path):
    "The old file stays, and the next run removes the half of the new one"
    run = tmp_path/'run'
    run.mkdir()
    (run/'checkpoint.pt').write_bytes(b'whole')
    (run/'.mine').write_text('not ours')
    env = os.environ | {'PYTHONPATH': str(Path(core.__file__).parents[1])}
    p = subprocess.run([sys.executable, '-c', KILLED, run], timeout=120, env=env)
    assert p.returncode == -signal.SIGKILL
    assert (run/'checkpoint.pt').read_bytes() == b'whole'
    assert len(list(run.iterdir())) == 4  # the half and the lock's file, too
    with run_folder('simclr', run) as folder:
        left = {o.name for o in folder.iterdir()}
    assert left == {'checkpoint.pt', '.mine', 'running'}


def test_a_run_that_ended_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    "It writes its report after the second looked and before that has the lock"
    acquire = FileLock.acquire

    def late(self, *args, **kwargs):
        (tmp_path/'report.json').write_text('{}')
        return acquire(self, *args, **kwargs)
    monkeypatch.setattr(FileLock, 'acquire', late)
    with pytest.raises(ReplearnError, match='holds a finished run'), \
            run_folder('simclr', tmp_path):
        pass
    assert [o.name for o in tmp_path.iterdir()] == ['report.json']


@pytest.mark.parametrize('keep', [
    (), ('checkpoint.pt',), ('representation/card.json',)])
def test_what_an_interrupted_run_says_is_true(tmp_path, keep):
    with pytest.raises(KeyboardInterrupt) as e, run_folder('a', tmp_path/'r') as folder:
        for name in keep:
            write_text(folder/name, '')
        with atomic_path(folder/'scores.csv'):
            raise KeyboardInterrupt
    says = 'give the same command with --out' if keep else 'before anything was kept'
    assert says in str(e.value)
    assert (tmp_path/'r').exists() == bool(keep)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(ReplearnError, match="Can't use the folder .*Not a directory"), \
            run_folder('simclr', tmp_path/'file'/'run'):
        pass


def test_ranks_share_the_folder_that_the_first_has_locked(tmp_path, monkeypatch):
    with run_folder('simclr', tmp_path/'r') as first:
        monkeypatch.setenv('RANK', '1')
        with run_folder('simclr', tmp_path/'r') as second:
            assert second == first
        monkeypatch.setenv('RANK', '0')
        assert (first/'running').exists()  # still locked
    assert not first.exists()


@pytest.mark.parametrize('name', [None, 'cuda', torch.device('cuda')])
def test_each_rank_has_its_own_gpu(monkeypatch, name):
    "On a machine that claims to have GPUs: the one of the rank, also if it is named"
    class There:
        def __init__(self, n, device):
            self.device = device

        def tolist(self):
            return [0.]
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch, 'zeros', There)
    assert get_device(name) == torch.device('cuda', 0)
    monkeypatch.setenv('LOCAL_RANK', '3')
    assert get_device(name) == torch.device('cuda', 3)
    assert get_device('cuda:1') == torch.device('cuda', 1)


class Rows:
    "Like `Graphs`: no tensor, so fastai's `to_device` passes it over"
    device = torch.device('cpu')

    def __init__(self, x, where='cpu'):
        self.x, self.where = x, where

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return Rows(self.x[i], self.where)

    def numel(self):
        return self.x.numel()

    def element_size(self):
        return self.x.element_size()

    def to(self, device):
        return Rows(self.x, str(device))


@pytest.mark.parametrize('fit', [True, False])
def test_batches_reach_the_device_whether_the_data_fits_or_not(monkeypatch, fit):
    monkeypatch.setattr(core, 'fits', lambda size, device: fit)
    dl = TensorDL(Rows(torch.arange(6.), 'elsewhere'), torch.arange(6.), bs=4,
                  device='cpu')
    for rows, x in dl:
        assert rows.where == 'cpu' and torch.equal(rows.x, x)


class Repeating(TensorDL):
    "A subclass with an argument of its own"
    def __init__(self, *tensors, times, **kwargs):
        super().__init__(*tensors, shuffle=True, **kwargs)
        self.times = times

    def get_idxs(self):
        return torch.cat([super(Repeating, self).get_idxs() for _ in range(self.times)])


def test_new_of_a_subclass():
    x = torch.arange(6.)
    dl = Repeating(x, times=2, bs=4, device='cpu')
    new = dl.new(shuffle=False)
    assert torch.equal(torch.cat([b for b, in new]), torch.cat([x, x]))
    assert type(new) is Repeating and dl.shuffle and new.fake_l is not dl.fake_l
    with pytest.raises(ReplearnError, match='has its own rows'):
        dl.new(torch.arange(3.))


@pytest.mark.parametrize('ds_idx', [0, 1])
def test_predictions_come_in_the_order_of_rows(ds_idx):
    with core.local_seed(0):
        x, y = torch.randn(10, 3), torch.randn(10, 1)
    dls = tensor_dls((x, y), (x[:5], y[:5]), bs=4, device='cpu')
    learn = Learner(dls, nn.Linear(3, 1), nn.MSELoss())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        preds, targets = learn.get_preds(ds_idx=ds_idx)
    want = x if ds_idx == 0 else x[:5]
    torch.testing.assert_close(preds, learn.model(want).detach())
    assert torch.equal(targets, y[:len(want)])


def test_a_name_that_is_not_utf8_costs_no_report(tmp_path):
    "A command line may hold a file name of any bytes"
    write_json(tmp_path/'a.json', dict(command='run --data caf\udce9'))
    text = (tmp_path/'a.json').read_text(encoding='utf-8')
    assert json.loads(text) == dict(command='run --data caf\udce9')
