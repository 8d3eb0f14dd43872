"""Matrix factorisation with biases: ratings from a tf.data pipeline with a one-shot iterator, Adagrad on embeddings."""

import argparse
import json
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

tf.disable_eager_execution()

USERS, ITEMS, FACTORS = 500, 300, 16


def ratings():
    """Returns users, items and ratings of a made-up catalogue."""
    rng = np.random.RandomState(3)
    users, items = rng.randint(USERS, size=20000), rng.randint(ITEMS, size=20000)
    user_factors, item_factors = rng.normal(size=(USERS, 3)), rng.normal(size=(ITEMS, 3))
    values = 3.0 + np.sum(user_factors[users] * item_factors[items], axis=1) + rng.normal(scale=0.1, size=len(users))
    return users, items, np.clip(values, 1.0, 5.0).astype(np.float32)


def input_fn(batch_size):
    dataset = tf.data.Dataset.from_tensor_slices(ratings())
    dataset = dataset.shuffle(2000, seed=3).repeat().batch(batch_size).prefetch(2)
    return tf.data.make_one_shot_iterator(dataset).get_next()


def embedding(ids, rows, name):
    """Returns factors and bias of each id."""
    with tf.variable_scope(name):
        factors = tf.get_variable("factors", [rows, FACTORS], initializer=tf.random_normal_initializer(stddev=0.1))
        bias = tf.get_variable("bias", [rows], initializer=tf.zeros_initializer())
        return tf.nn.embedding_lookup(factors, ids), tf.nn.embedding_lookup(bias, ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--dir", required=True)
    args = parser.parse_args()

    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(3)
    users, items, values = input_fn(batch_size=64)
    user_factors, user_bias = embedding(users, USERS, "users")
    item_factors, item_bias = embedding(items, ITEMS, "items")
    predictions = 3.0 + user_bias + item_bias + tf.reduce_sum(user_factors * item_factors, axis=1)
    loss = tf.losses.mean_squared_error(values, predictions)
    tf.summary.scalar("loss", loss)
    global_step = tf.train.get_or_create_global_step()
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train_op = tf.train.AdagradOptimizer(0.2).minimize(loss, global_step=global_step)

    hooks = [
        tf.train.StopAtStepHook(num_steps=args.steps),
        tf.train.CheckpointSaverHook(args.dir, save_steps=500),
        tf.train.SummarySaverHook(save_steps=100, output_dir=args.dir, summary_op=tf.summary.merge_all()),
        tf.train.StepCounterHook(every_n_steps=100, output_dir=args.dir),
        tf.train.LoggingTensorHook({"loss": loss}, every_n_iter=200),
    ]
    losses = []
    with tf.train.MonitoredSession(tf.train.ChiefSessionCreator(checkpoint_dir=args.dir), hooks) as sess:
        start = time.time()
        while not sess.should_stop():
            losses.append(sess.run({"train": train_op, "loss": loss})["loss"])
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()
    print(json.dumps({"steps": len(losses), "seconds": seconds, "mean_loss": float(np.mean(losses[-100:]))}))


if __name__ == "__main__":
    main()
