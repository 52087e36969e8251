"""One module per group of commands; each has `COMMANDS`, sorted by name."""
