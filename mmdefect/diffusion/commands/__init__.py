"""The subcommands of ``tools/generate.py``: arguments, and one call."""
