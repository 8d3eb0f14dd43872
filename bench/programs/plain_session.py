"""Linear regression with a plain tf.Session: summaries written by hand, a Saver, no hooks."""

import argparse
import json
import os
import time

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--dir", required=True)
    args = parser.parse_args()

    rng = np.random.RandomState(6)
    features = rng.normal(size=(1000, 8)).astype(np.float32)
    targets = (features.dot(rng.normal(size=(8, 1))) + 0.5).astype(np.float32)

    x = tf.placeholder(tf.float32, [None, 8], name="x")
    y = tf.placeholder(tf.float32, [None, 1], name="y")
    weights = tf.Variable(tf.zeros([8, 1]), name="weights")
    bias = tf.Variable(tf.zeros([1]), name="bias")
    loss = tf.reduce_mean(tf.square(tf.matmul(x, weights) + bias - y))
    global_step = tf.Variable(0, trainable=False, name="global_step")
    train_step = tf.train.GradientDescentOptimizer(0.05).minimize(loss, global_step=global_step)
    tf.summary.scalar("loss", loss)
    merged = tf.summary.merge_all()
    saver = tf.train.Saver(max_to_keep=3)

    with tf.Session() as sess:
        writer = tf.summary.FileWriter(os.path.join(args.dir, "logs"), sess.graph)
        sess.run(tf.global_variables_initializer())
        start = time.time()
        for step in range(args.steps):
            batch = rng.randint(len(features), size=16)
            feed_dict = {x: features[batch], y: targets[batch]}
            if step % 50 == 0:
                summary, loss_value, _ = sess.run([merged, loss, train_step], feed_dict=feed_dict)
                writer.add_summary(summary, step)
                print(f"step {step} loss {loss_value:.6f}")
            else:
                sess.run(train_step, feed_dict=feed_dict)
            if step % 500 == 0:
                saver.save(sess, os.path.join(args.dir, "model.ckpt"), global_step=global_step)
        seconds = time.time() - start
        saver.save(sess, os.path.join(args.dir, "model.ckpt"), global_step=global_step)
        writer.close()
        steps = sess.run(global_step)
    print(json.dumps({"steps": int(steps), "seconds": seconds}))


if __name__ == "__main__":
    main()
