"""`cnn_digits` with fasthooks' EvaluationHook and LambdaHook in place of its own hooks, and the best checkpoint kept."""

import json
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from sklearn.datasets import load_digits
from tensorflow.python.training import training_util

import fasthooks as fh

tf.disable_v2_behavior()

flags = tf.app.flags
flags.DEFINE_integer("steps", 1500, "Number of training steps.")
flags.DEFINE_string("dir", None, "Where to write checkpoints and summaries.", required=True)
flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
flags.DEFINE_integer("eval_every", 100, "Steps between two evaluations.")
FLAGS = flags.FLAGS


def convolution(inputs, channels, name):
    with tf.variable_scope(name):
        kernel = tf.get_variable("kernel", [3, 3, inputs.shape[-1], channels])
        bias = tf.get_variable("bias", [channels], initializer=tf.zeros_initializer())
        return tf.nn.relu(tf.nn.conv2d(inputs, kernel, strides=[1, 1, 1, 1], padding="SAME") + bias)


def inference(images):
    with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
        net = convolution(tf.reshape(images, [-1, 8, 8, 1]), 16, "conv1")
        net = convolution(tf.nn.max_pool(net, [1, 2, 2, 1], [1, 2, 2, 1], "SAME"), 32, "conv2")
        net = tf.reshape(net, [-1, 4 * 4 * 32])
        kernel = tf.get_variable("logits_kernel", [4 * 4 * 32, 10])
        return tf.matmul(net, kernel)


def main(_):
    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(8)
    digits = load_digits()
    all_images, all_labels = (digits.data / 16.0).astype(np.float32), digits.target.astype(np.int64)

    images = tf.placeholder(tf.float32, [None, 64])
    labels = tf.placeholder(tf.int64, [None])
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.shuffle(1500, seed=8).repeat().batch(FLAGS.batch_size, drop_remainder=True)
    iterator = tf.data.make_initializable_iterator(dataset)
    batch_images, batch_labels = iterator.get_next()

    loss = tf.losses.sparse_softmax_cross_entropy(batch_labels, inference(batch_images))
    accuracy = tf.reduce_mean(tf.to_float(tf.equal(tf.argmax(inference(images), 1), labels)))
    tf.summary.scalar("loss", loss)
    global_step = tf.train.get_or_create_global_step()
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train_op = tf.train.AdamOptimizer(0.002).minimize(loss, global_step=global_step)

    train_set = {images: all_images[:1500], labels: all_labels[:1500]}
    test_set = {images: all_images[1500:], labels: all_labels[1500:]}
    best = fh.BestCheckpoints(os.path.join(FLAGS.dir, "best"), "accuracy", mode="max")
    hooks = [
        fh.LambdaHook(after_create_session=lambda session, coord: session.run(iterator.initializer, train_set)),
        fh.EvaluationHook(lambda session: {"accuracy": session.run(accuracy, test_set)},
                          to=[lambda step, row: print(f"accuracy {row['accuracy']:.4f}"), best],
                          every_n_steps=FLAGS.eval_every, at_end=False),
        tf.train.StopAtStepHook(last_step=FLAGS.steps),
        tf.train.LoggingTensorHook({"loss": loss}, every_n_iter=50),
    ]
    steps = 0
    with tf.train.MonitoredTrainingSession(checkpoint_dir=FLAGS.dir, hooks=hooks, save_checkpoint_steps=500) as sess:
        start = time.time()
        while not sess.should_stop():
            sess.run(train_op)
            steps += 1
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()
    print(json.dumps({"steps": steps, "seconds": seconds}))


if __name__ == "__main__":
    tf.app.run()
