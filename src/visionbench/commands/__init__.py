"""One file a command: its parser, its console lines, one call."""
