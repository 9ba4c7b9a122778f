"""The command line: parse, call, print, exit code. Nothing else; everything it does can be done from Python."""

from seodang.cli.app import app as app
from seodang.cli.entry import main as main
