"""REINFORCE on a pole to be balanced: many tiny runs that choose an action, and a training run after each episode."""

import argparse
import json
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import training_util

tf.disable_v2_behavior()


class Pole:
    """A pole on a cart, by Euler steps; an episode ends when it leans too far, or after 100 steps."""

    def __init__(self, seed):
        self.rng = np.random.RandomState(seed)

    def reset(self):
        self.steps = 0
        self.state = self.rng.uniform(-0.05, 0.05, size=4)
        return self.state.astype(np.float32)

    def step(self, action):
        _, x_dot, theta, theta_dot = self.state
        force = 10.0 if action else -10.0
        push = (force + 0.05 * theta_dot**2 * np.sin(theta)) / 1.1
        theta_acc = (9.8 * np.sin(theta) - np.cos(theta) * push) / (0.5 * (4.0 / 3.0 - 0.1 * np.cos(theta) ** 2 / 1.1))
        x_acc = push - 0.05 * theta_acc * np.cos(theta) / 1.1
        self.state = self.state + 0.02 * np.array([x_dot, x_acc, theta_dot, theta_acc])
        self.steps += 1
        done = abs(self.state[2]) > 0.21 or abs(self.state[0]) > 2.4 or self.steps == 100
        return self.state.astype(np.float32), 1.0, done


def discounted(rewards, rate=0.99):
    total, result = 0.0, np.zeros(len(rewards), np.float32)
    for i in reversed(range(len(rewards))):
        total = rewards[i] + rate * total
        result[i] = total
    return (result - result.mean()) / (result.std() + 1e-6)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000, help="steps of the pole")
    parser.add_argument("--dir", required=True)
    args = parser.parse_args()

    tf.logging.set_verbosity(tf.logging.INFO)
    tf.set_random_seed(9)
    observations = tf.placeholder(tf.float32, [None, 4], name="observations")
    actions = tf.placeholder(tf.int32, [None], name="actions")
    returns = tf.placeholder(tf.float32, [None], name="returns")
    hidden_kernel = tf.get_variable("hidden_kernel", [4, 16])
    hidden_bias = tf.get_variable("hidden_bias", [16], initializer=tf.zeros_initializer())
    output_kernel = tf.get_variable("output_kernel", [16, 2])
    logits = tf.matmul(tf.tanh(tf.nn.xw_plus_b(observations, hidden_kernel, hidden_bias)), output_kernel)
    probabilities = tf.nn.softmax(logits)
    log_likelihood = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=logits)
    loss = -tf.reduce_mean(log_likelihood * returns)
    episodes = tf.train.get_or_create_global_step()
    # The hooks read the step before it grows; otherwise that would be left to chance.
    with tf.control_dependencies([training_util._get_or_create_global_step_read()]):
        train_op = tf.train.AdamOptimizer(0.02).minimize(loss, global_step=episodes)

    # Every run passes the hooks, also those that only choose an action: summaries of the loss cannot be left to them.
    hooks = [tf.train.CheckpointSaverHook(args.dir, save_steps=20), tf.train.StepCounterHook(50, output_dir=args.dir)]
    writer = tf.summary.FileWriterCache.get(args.dir)
    pole, rng = Pole(seed=9), np.random.RandomState(9)
    steps, lengths = 0, []
    with tf.train.MonitoredSession(tf.train.ChiefSessionCreator(checkpoint_dir=args.dir), hooks) as sess:
        start = time.time()
        while steps < args.steps and not sess.should_stop():
            history = []
            observation, done = pole.reset(), False
            while not done:
                chances = sess.run(probabilities, feed_dict={observations: [observation]})[0]
                action = int(rng.uniform() > chances[0])
                next_observation, reward, done = pole.step(action)
                history.append((observation, action, reward))
                observation = next_observation
            seen, taken, rewards = zip(*history, strict=True)
            _, loss_value, episode = sess.run(
                [train_op, loss, episodes], {observations: seen, actions: taken, returns: discounted(rewards)})
            steps += len(rewards)
            lengths.append(len(rewards))
            summary = tf.Summary(value=[
                tf.Summary.Value(tag="length", simple_value=len(rewards)),
                tf.Summary.Value(tag="policy_loss", simple_value=float(loss_value)),
            ])
            writer.add_summary(summary, episode)
        seconds = time.time() - start
    tf.summary.FileWriterCache.clear()
    print(f"{len(lengths)} episodes, the last ten of {np.mean(lengths[-10:]):.1f} steps")
    print(json.dumps({"steps": steps, "seconds": seconds}))


if __name__ == "__main__":
    main()
