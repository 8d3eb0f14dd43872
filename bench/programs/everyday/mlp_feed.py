"""`mlp_feed` with rows of metrics in a file in place of a log, and its progress shown."""

import argparse
import json
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from sklearn.datasets import load_digits
from tensorflow.python.training import training_util

import fasthooks as fh

tf.disable_v2_behavior()


def dense(inputs, units, name, activation=None):
    with tf.variable_scope(name):
        kernel = tf.get_variable("kernel", [inputs.shape[-1], units])
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
        outputs = tf.nn.bias_add(tf.matmul(inputs, kernel), bias)
        return activation(outputs) if activation else outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()

    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(2)
    digits = load_digits()
    images, labels = (digits.data / 16.0).astype(np.float32), digits.target
    train_images, train_labels, test_images, test_labels = images[:1500], labels[:1500], images[1500:], labels[1500:]

    x = tf.placeholder(tf.float32, [None, 64], name="x")
    y = tf.placeholder(tf.int64, [None], name="y")
    keep_prob = tf.placeholder_with_default(1.0, [], name="keep_prob")
    hidden = tf.nn.dropout(dense(x, 64, "hidden1", tf.nn.relu), rate=1.0 - keep_prob)
    logits = dense(dense(hidden, 32, "hidden2", tf.nn.relu), 10, "logits")
    loss = tf.losses.sparse_softmax_cross_entropy(y, logits)
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.float32), name="accuracy")
    tf.summary.scalar("loss", loss)
    tf.summary.scalar("accuracy", accuracy)
    global_step = tf.train.get_or_create_global_step()
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train_op = tf.train.AdamOptimizer(0.001).minimize(loss, global_step=global_step)

    hooks = [
        tf.train.StopAtStepHook(last_step=args.steps),
        fh.MetricsHook({"loss": loss, "accuracy": accuracy}, to=fh.CSVSink(os.path.join(args.dir, "metrics.csv")),
                       every_n_steps=100, examples_per_step=args.batch_size, at_end=False),
        fh.ProgressHook(args.steps, metrics={"loss": loss}, log_secs=5),
        tf.train.NanTensorHook(loss),
    ]
    rng = np.random.RandomState(2)
    with tf.train.MonitoredTrainingSession(
            checkpoint_dir=args.dir, hooks=hooks, save_summaries_steps=100, log_step_count_steps=100) as sess:
        start = time.time()
        while not sess.should_stop():
            batch = rng.randint(len(train_images), size=args.batch_size)
            sess.run(train_op, feed_dict={x: train_images[batch], y: train_labels[batch], keep_prob: 0.8})
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()

    with tf.Session() as sess:
        saver = tf.train.Saver()
        saver.restore(sess, tf.train.latest_checkpoint(os.path.abspath(args.dir)))
        steps, test_accuracy = sess.run([global_step, accuracy], {x: test_images, y: test_labels})
    print(json.dumps({"steps": int(steps), "seconds": seconds, "test_accuracy": float(test_accuracy)}))


if __name__ == "__main__":
    main()
