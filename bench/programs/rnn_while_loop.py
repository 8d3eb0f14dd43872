"""A recurrent network unrolled by tf.while_loop over sequences of different lengths, with tf.cond for the noisy input."""

import argparse
import json
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

tf.disable_v2_behavior()

UNITS, BATCH_SIZE, MAX_LENGTH = 8, 16, 10


def recurrent(inputs, lengths):
    """Returns the state of each sequence after its last input."""
    kernel = tf.get_variable("kernel", [2 + UNITS, UNITS], initializer=tf.orthogonal_initializer(seed=5))
    bias = tf.get_variable("bias", [UNITS], initializer=tf.zeros_initializer())
    time_major = tf.transpose(inputs, [1, 0, 2])
    steps = tf.reduce_max(lengths)

    def body(t, state):
        new_state = tf.tanh(tf.matmul(tf.concat([time_major[t], state], axis=1), kernel) + bias)
        going_on = tf.tile(tf.expand_dims(t < lengths, 1), [1, UNITS])
        return t + 1, tf.where(going_on, new_state, state)

    zero_state = tf.zeros([tf.shape(inputs)[0], UNITS])
    _, state = tf.while_loop(lambda t, _: t < steps, body, [tf.constant(0), zero_state])
    return state


def batches():
    """Yields the adding problem: numbers, of which two are marked, and the sum of those two."""
    rng = np.random.RandomState(5)
    rows = np.arange(BATCH_SIZE)
    while True:
        lengths = rng.randint(4, MAX_LENGTH + 1, size=BATCH_SIZE).astype(np.int32)
        inputs = np.zeros([BATCH_SIZE, MAX_LENGTH, 2], np.float32)
        inputs[:, :, 0] = rng.uniform(size=[BATCH_SIZE, MAX_LENGTH])
        first, second = rng.randint(2, size=BATCH_SIZE), 2 + rng.randint(2, size=BATCH_SIZE)
        inputs[rows, first, 1] = inputs[rows, second, 1] = 1.0
        yield inputs, lengths, inputs[rows, first, 0] + inputs[rows, second, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--dir", required=True)
    args = parser.parse_args()

    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(5)
    inputs = tf.placeholder(tf.float32, [None, MAX_LENGTH, 2])
    lengths = tf.placeholder(tf.int32, [None])
    targets = tf.placeholder(tf.float32, [None])
    training = tf.placeholder_with_default(False, [])

    noisy = tf.cond(training, lambda: inputs + tf.random_normal(tf.shape(inputs), stddev=0.01), lambda: inputs)
    state = recurrent(noisy, lengths)
    output_kernel = tf.get_variable("output_kernel", [UNITS, 1], initializer=tf.glorot_uniform_initializer(seed=5))
    predictions = tf.squeeze(tf.matmul(state, output_kernel), axis=1)
    loss = tf.losses.mean_squared_error(targets, predictions)
    global_step = tf.train.get_or_create_global_step()
    optimizer = tf.train.RMSPropOptimizer(0.01)
    gradients = optimizer.compute_gradients(loss)
    norm = tf.global_norm([gradient for gradient, _ in gradients])
    # Scales only gradients that are too large.
    clipped = [(tf.cond(norm > 1.0, lambda g=g: g / norm, lambda g=g: tf.identity(g)), v) for g, v in gradients]
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train_op = optimizer.apply_gradients(clipped, global_step=global_step)

    hooks = [
        tf.train.StopAtStepHook(last_step=args.steps),
        tf.train.CheckpointSaverHook(args.dir, save_steps=500, saver=tf.train.Saver(max_to_keep=2)),
        tf.train.StepCounterHook(output_dir=args.dir),
        tf.train.LoggingTensorHook({"loss": loss, "norm": norm}, every_n_iter=100),
    ]
    data = batches()
    with tf.train.SingularMonitoredSession(hooks=hooks, checkpoint_dir=args.dir) as sess:
        start = time.time()
        while not sess.should_stop():
            batch = next(data)
            _, loss_value = sess.run(
                (train_op, loss), feed_dict={inputs: batch[0], lengths: batch[1], targets: batch[2], training: True})
        seconds = time.time() - start
        # The raw session still works after the last step, and does not count as one.
        batch = next(data)
        test_loss = sess.raw_session().run(loss, {inputs: batch[0], lengths: batch[1], targets: batch[2]})
        steps = sess.raw_session().run(global_step)
    tf.summary.FileWriterCache.clear()
    print(f"last batch {loss_value:.6f}, test {test_loss:.6f}")
    print(json.dumps({"steps": int(steps), "seconds": seconds}))


if __name__ == "__main__":
    main()
