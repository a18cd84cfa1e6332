"""The commands beside `train`: each answers one line of the command line."""
