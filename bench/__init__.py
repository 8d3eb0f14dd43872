"""Benchmarks of fasthooks against TensorFlow's own session hooks.

PYTEST_DONT_REWRITE: nothing here is a test's assertion, and pytest warns where this is imported before it looks for plugins.
"""
