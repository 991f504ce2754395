"Runs of tests/scripts in processes of their own: killed and gone on, one and two ranks"
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPTS = Path(__file__).parent/'scripts'
ENV = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(SCRIPTS.parents[1])}
TORCHRUN = ('-m torch.distributed.run --nproc_per_node=2 --master_addr=127.0.0.1 '
            '--master_port=0 --rdzv_backend=c10d --rdzv_endpoint=127.0.0.1:0').split()


def start(script, *args, **kwargs):
    command = [sys.executable, SCRIPTS/script, *map(str, args)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True,
                            **kwargs)


def check_kills(script, folder, kill_after):
    "Killed in these epochs and gone on, a run ends with the weights of a whole one"
    whole, broken = folder/'whole', folder/'broken'
    straight = start(script, whole)
    for epoch in kill_after:  # kill -9, in the middle of an epoch or of a save
        p = start(script, broken)
        for line in p.stdout:
            if line.startswith('epoch') and int(line.split()[1]) >= epoch:
                break
        time.sleep(.01)
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert not (broken/'end.safetensors').exists()
        assert (broken/'checkpoint.pt').exists()
    out = start(script, broken).communicate(timeout=120)[0]
    assert int(out.split()[1]) >= kill_after[-1] - 1, 'it began anew: ' + out
    straight.communicate(timeout=120)
    a, b = (load_file(f/'end.safetensors') for f in (whole, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def torchrun(script, *args, **env):
    "A script in two ranks; what it printed and its exit code"
    return subprocess.run(
        [sys.executable, *TORCHRUN, SCRIPTS/script, *map(str, args)], timeout=200,
        env=ENV | env, capture_output=True, text=True)


def check_ranks(script, folder):
    "One process and two ranks save the same loss and gradients, which are given back"
    one = start(script, folder/'one')
    two = torchrun(script, folder/'two')
    assert two.returncode == 0, two.stderr[-2000:]
    assert one.wait(timeout=200) == 0
    a, b = (load_file(folder/f'{f}.safetensors') for f in ('one', 'two'))
    assert a.keys() == b.keys() and len(a) > 4
    for k in a:
        torch.testing.assert_close(b[k], a[k], atol=1e-6, rtol=1e-4)
    return a
