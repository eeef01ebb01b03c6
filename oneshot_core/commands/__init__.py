"""What the verbs of the command line do; `cli.py` parses, these work."""
