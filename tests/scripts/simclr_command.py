"The command `replearn` with a SimCLR that takes seconds; killed if KILL_AFTER says so"
import os
import signal
import sys
from dataclasses import replace

from replearn_nb import cli
from replearn_nb.pretext.base import Checkpoint
from replearn_nb.recipes import simclr

simclr.PRESETS['quick'] = replace(simclr.PRESETS['tiny'], epochs=3)
after_epoch = Checkpoint.after_epoch


def saved_and_killed(self):
    self.seconds = 0
    after_epoch(self)
    if self.epoch + 1 == int(os.environ.get('KILL_AFTER', 0)):
        os.kill(os.getpid(), signal.SIGKILL)


Checkpoint.after_epoch = saved_and_killed
cli.main(sys.argv[1:])
