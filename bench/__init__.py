"""Benchmarks of fasthooks against TensorFlow's own session hooks."""
