"""What hooks write, log lines and event files, by a shorter way than TensorFlow's where that writes the same."""
