"A run of SimCLR, of which the second process of two can't go on: rank_fails.py FOLDER"
import os
import sys

from fastai.learner import Learner

from replearn_nb.cli import main
from replearn_nb.core import ReplearnError

def no_space(*args, **kwargs):
    raise ReplearnError('No space left on the second machine')


if os.environ['RANK'] == '1':
    Learner.fit = no_space
main(['run', 'simclr', '--preset', 'tiny', '--device', 'cpu', '--out', sys.argv[1]])
