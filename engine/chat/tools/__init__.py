"""How models write tool calls: a file for each format."""
