"""``python -m intarsia``: the command line, in a form that a launcher can start again."""

from intarsia.cli import main

main()
