"""The networks and losses that a config can name."""
