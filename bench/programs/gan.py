"""A generative adversarial network on points of a ring: two train ops take turns in one monitored session."""

import argparse
import json
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

tf.disable_v2_behavior()
tf.enable_resource_variables()

NOISE, UNITS, BATCH_SIZE = 4, 24, 32


def dense(inputs, units, name):
    with tf.variable_scope(name, reuse=tf.AUTO_REUSE):
        kernel = tf.get_variable("kernel", [inputs.shape[-1], units])
        bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(inputs, kernel), bias)


def generator(noise):
    with tf.variable_scope("generator"):
        return dense(tf.nn.relu(dense(noise, UNITS, "hidden")), 2, "points")


def discriminator(points):
    with tf.variable_scope("discriminator", reuse=tf.AUTO_REUSE):
        return dense(tf.nn.leaky_relu(dense(points, UNITS, "hidden")), 1, "logit")


def cross_entropy(logits, label):
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.fill(tf.shape(logits), label), logits=logits))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="turns of both networks")
    parser.add_argument("--dir", required=True)
    args = parser.parse_args()

    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(7)
    angle = tf.random_uniform([BATCH_SIZE, 1], maxval=2 * np.pi)
    real = tf.concat([tf.cos(angle), tf.sin(angle)], axis=1)
    fake = generator(tf.random_normal([BATCH_SIZE, NOISE]))
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    d_loss = cross_entropy(real_logits, 1.0) + cross_entropy(fake_logits, 0.0)
    g_loss = cross_entropy(fake_logits, 1.0)
    tf.summary.scalar("d_loss", d_loss)
    tf.summary.scalar("g_loss", g_loss)

    global_step = tf.train.get_or_create_global_step()
    d_vars = tf.trainable_variables("discriminator")
    g_vars = tf.trainable_variables("generator")
    d_train = tf.train.AdamOptimizer(1e-3, beta1=0.5).minimize(d_loss, var_list=d_vars)
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        g_train = tf.train.AdamOptimizer(1e-3, beta1=0.5).minimize(g_loss, var_list=g_vars, global_step=global_step)

    hooks = [
        tf.train.StopAtStepHook(num_steps=args.steps),
        tf.train.LoggingTensorHook({"d_loss": d_loss, "g_loss": g_loss}, every_n_iter=500),
        tf.train.NanTensorHook(d_loss, fail_on_nan_loss=False),
    ]
    turns = 0
    with tf.train.MonitoredTrainingSession(
            checkpoint_dir=args.dir, hooks=hooks, save_checkpoint_steps=500, save_summaries_steps=50) as sess:
        start = time.time()
        while not sess.should_stop():
            _, d_value = sess.run([d_train, d_loss])
            _, g_value = sess.run([g_train, g_loss])
            turns += 1
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()
    print(f"discriminator {d_value:.6f}, generator {g_value:.6f}")
    print(json.dumps({"steps": turns, "seconds": seconds}))


if __name__ == "__main__":
    main()
