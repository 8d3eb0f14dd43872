"""When a hook acts: its trigger, its timer, and whether the code that they stand for is still TensorFlow's own."""
