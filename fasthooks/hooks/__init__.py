"""The hooks that users make: TensorFlow's with compiled triggers, wandb's, and our own."""
