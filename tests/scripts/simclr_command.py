"The command `replearn` with a SimCLR that takes seconds; killed if KILL_AFTER says so"
import os
import signal
import sys

from replearn_nb import cli
from replearn_nb.pretext.base import Checkpoint
from replearn_nb.recipes import simclr

simclr.PRESETS['quick'] |= dict(epochs=3, steps=4, scratch_steps=4, budgets=(1, 2),
                                draws=2)
after_epoch = Checkpoint.after_epoch


def saved_and_killed(self):
    self.seconds = 0
    after_epoch(self)
    if self.epoch + 1 == int(os.environ.get('KILL_AFTER', 0)):
        os.kill(os.getpid(), signal.SIGKILL)


Checkpoint.after_epoch = saved_and_killed
cli.main(sys.argv[1:])
