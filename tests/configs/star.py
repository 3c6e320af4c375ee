# One file for all, and one for this machine.
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from star_base import *  # noqa: F403

timeout = 90
loglevel = "warning"
