"""The commands of `python -m fasthooks`."""
