"""The programs that are measured; each runs in the environment of its lane."""
