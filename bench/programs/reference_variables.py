"""Softmax regression with reference variables: a partitioned table, momentum, a decayed rate, averaged variables."""

import json
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

tf.disable_v2_behavior()

tf.app.flags.DEFINE_integer("steps", 3000, "Number of training steps.")
tf.app.flags.DEFINE_string("dir", None, "Where to write checkpoints and summaries.", required=True)
tf.app.flags.DEFINE_float("learning_rate", 0.3, "Rate at the first step.")
FLAGS = tf.app.flags.FLAGS

WORDS, CLASSES, LENGTH, BATCH_SIZE = 90, 4, 8, 32


def inference(words):
    """Returns the logits of bags of words; the embeddings lie in three shards."""
    with tf.variable_scope("model", use_resource=False):
        table = tf.get_variable(
            "table", [WORDS, 12], initializer=tf.random_uniform_initializer(-0.1, 0.1, seed=4),
            partitioner=tf.fixed_size_partitioner(3))
        kernel = tf.get_variable("kernel", [12, CLASSES], initializer=tf.truncated_normal_initializer(stddev=0.1, seed=4))
        bias = tf.get_variable("bias", [CLASSES], initializer=tf.zeros_initializer())
    bag = tf.reduce_mean(tf.nn.embedding_lookup(table, words, partition_strategy="div"), axis=1)
    return tf.nn.xw_plus_b(bag, kernel, bias)


def batches():
    """Yields words and classes: a class has its own favourite words."""
    rng = np.random.RandomState(4)
    while True:
        classes = rng.randint(CLASSES, size=BATCH_SIZE)
        own = classes[:, None] * 20 + rng.randint(20, size=(BATCH_SIZE, LENGTH))
        noise = rng.randint(WORDS, size=(BATCH_SIZE, LENGTH))
        yield np.where(rng.uniform(size=own.shape) < 0.5, own, noise), classes


def main(_):
    tf.logging.set_verbosity(tf.logging.INFO)
    words = tf.placeholder(tf.int32, [None, LENGTH])
    classes = tf.placeholder(tf.int32, [None])
    logits = inference(words)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits))
    accuracy = tf.reduce_mean(tf.to_float(tf.nn.in_top_k(logits, classes, 1)))

    global_step = tf.Variable(0, trainable=False, name="global_step", use_resource=False, dtype=tf.int64,
                              collections=[tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.GLOBAL_STEP])
    learning_rate = tf.train.exponential_decay(FLAGS.learning_rate, global_step, 500, 0.9, staircase=True)
    optimizer = tf.train.MomentumOptimizer(learning_rate, momentum=0.9)
    gradients, variables = zip(*optimizer.compute_gradients(loss), strict=True)
    gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        apply_op = optimizer.apply_gradients(zip(gradients, variables, strict=True), global_step=global_step)
    averages = tf.train.ExponentialMovingAverage(0.98, num_updates=global_step)
    with tf.control_dependencies([apply_op]):
        train_op = averages.apply(tf.trainable_variables())
    tf.summary.scalar("loss", loss)
    tf.summary.scalar("learning_rate", learning_rate)

    train_dir = os.path.join(FLAGS.dir, "train")
    hooks = [tf.train.StopAtStepHook(last_step=FLAGS.steps), tf.train.NanTensorHook(loss)]
    data = batches()
    with tf.train.MonitoredTrainingSession(checkpoint_dir=train_dir, hooks=hooks, save_checkpoint_steps=500) as sess:
        start = time.time()
        while not sess.should_stop():
            batch_words, batch_classes = next(data)
            _, step, rate = sess.run([train_op, global_step, learning_rate], {words: batch_words, classes: batch_classes})
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()

    # Evaluates the averaged variables.
    use_averages = tf.group(*[variable.assign(averages.average(variable)) for variable in tf.trainable_variables()])
    with tf.Session() as sess:
        tf.train.Saver().restore(sess, tf.train.latest_checkpoint(train_dir))
        sess.run(use_averages)
        batch_words, batch_classes = next(data)
        steps, value = sess.run([global_step, accuracy], {words: batch_words, classes: batch_classes})
    print(f"last step fetched: {step}, rate {rate:.4f}")
    print(json.dumps({"steps": int(steps), "seconds": seconds, "accuracy": float(value)}))


if __name__ == "__main__":
    tf.app.run(main)
