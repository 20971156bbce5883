"""``python -m lalm`` is the ``lalm`` command."""

from lalm.cli.app import main

main()
