"""Logistic regression on CSV files that queue runners read, until the input is exhausted."""

import json
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

tf.disable_v2_behavior()

flags = tf.app.flags
flags.DEFINE_integer("steps", 3000, "Number of training steps; the files hold as much input.")
flags.DEFINE_string("dir", None, "Where to write the input files, checkpoints and summaries.", required=True)
FLAGS = flags.FLAGS

BATCH_SIZE = 16
EPOCHS = 2
FEATURES = 12
FILES = 3


def write_input_files():
    """Writes the CSV files and returns their names."""
    rng = np.random.RandomState(1)
    features = rng.normal(size=(FLAGS.steps * BATCH_SIZE // EPOCHS, FEATURES))
    labels = features.dot(rng.normal(size=FEATURES)) > 0
    rows = np.column_stack([features, labels])
    os.makedirs(os.path.join(FLAGS.dir, "input"))
    names = [os.path.join(FLAGS.dir, "input", f"part-{i}.csv") for i in range(FILES)]
    for i, name in enumerate(names):
        np.savetxt(name, rows[i::FILES], fmt="%.5f", delimiter=",")
    return names


def input_pipeline(file_names):
    """Returns batches of features and labels."""
    file_queue = tf.train.string_input_producer(file_names, num_epochs=EPOCHS, shuffle=False)
    _, lines = tf.TextLineReader().read_up_to(file_queue, 64)
    columns = tf.decode_csv(lines, [[0.0]] * (FEATURES + 1))
    features = tf.stack(columns[:-1], axis=1)
    return tf.train.batch([features, columns[-1]], BATCH_SIZE, capacity=1024, enqueue_many=True)


def main(_):
    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(1)
    features, labels = input_pipeline(write_input_files())
    global_step = tf.train.get_or_create_global_step()
    weights = tf.get_variable("weights", [FEATURES, 1], initializer=tf.zeros_initializer())
    bias = tf.get_variable("bias", [1], initializer=tf.zeros_initializer())
    logits = tf.squeeze(tf.nn.xw_plus_b(features, weights, bias), axis=1)
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
    tf.summary.scalar("loss", loss)
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train_op = tf.train.GradientDescentOptimizer(0.5).minimize(loss, global_step=global_step)

    hooks = [tf.train.LoggingTensorHook({"loss": loss}, every_n_iter=100)]
    steps = 0
    with tf.train.MonitoredTrainingSession(
            checkpoint_dir=os.path.join(FLAGS.dir, "train"), hooks=hooks, save_checkpoint_steps=500) as sess:
        start = time.time()
        try:
            while not sess.should_stop():
                _, loss_value = sess.run([train_op, loss])
                steps += 1
        except tf.errors.OutOfRangeError:
            tf.logging.info("End of input after %d steps.", steps)
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()
    print(json.dumps({"steps": steps, "seconds": seconds, "loss": float(loss_value)}))


if __name__ == "__main__":
    tf.app.run()
