"""How much `budgets.py` measures: all of it, a first impression, or next to nothing for tests of the scripts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes:
      rounds: rounds per comparison.
      round_steps: steps per lane and round; 1,000 holds one full period of every trigger.
      warm_up: steps per lane before the first round; until step 1,000 and often some thousand more fasthooks tries ways to run a
        step, since TensorFlow's pool has found its order of the step's ops only then.
      graph_warm_up: the same for the larger graphs of B6 and B18.
      settled_steps: the same, before the rounds of a long training; triggers of every 1,000 steps have come 120 times by 125,000.
      sets: how many sets of sessions share the rounds where small differences between sessions are measured.
      quiet_pieces: stretches of 70 quiet steps per lane and round.
      trigger_pieces: periods of 100 steps per lane and round, whose triggers are measured.
      graph_round_steps: `round_steps` for the larger graphs of B6 and B18.
      server_hooks, server_megabytes: how many hooks, and how large arrays, B7 measures with.
      server_warm_up, server_steps, server_array_steps: steps per lane before the first round, and in a round, of B7.
      variables: how many Adam updates in B18.
      estimator_steps: steps of B8 in each training, after as many that are not measured.
      rss_steps: the two steps between which memory is compared.
      fetch_sets: distinct fetch sets of the memory budget.
      import_repeats: processes started to time the import.
      checkpoint_mb: size of the checkpoints whose stalls are measured.
      form_steps: steps per lane and round for each form of fetches and feeds.
      start_ops, start_rounds: sizes of the larger graphs that are started, and how often a fresh one is.
      first_ops: size of the graph whose first runs are measured.
      batch_megabytes, batch_steps: size of a large batch, and steps per lane and round.
      batch_matmuls, batch_wait_secs: what a step does meanwhile: products of 512x512 matrices, or nothing.
    """

    rounds: int = 15
    round_steps: int = 1000
    warm_up: int = 8000
    graph_warm_up: int = 1000
    settled_steps: int = 125_000
    sets: int = 15
    quiet_pieces: int = 10
    trigger_pieces: int = 10
    graph_round_steps: int = 1000
    server_hooks: tuple = (0, 3, 8)
    server_megabytes: tuple = (0.4, 4, 16)
    server_warm_up: int = 150
    server_steps: int = 200
    server_array_steps: int = 20
    variables: int = 200
    estimator_steps: int = 1000
    rss_steps: tuple = (100_000, 1_000_000)
    fetch_sets: int = 10_000
    import_repeats: int = 5
    checkpoint_mb: float = 200
    form_steps: int = 500
    start_ops: tuple = (2000, 8000)
    start_rounds: int = 15
    first_ops: int = 2000
    batch_megabytes: int = 64
    batch_steps: int = 15
    batch_matmuls: int = 10
    batch_wait_secs: float = 0.03


FULL = Settings()
QUICK = Settings(
    rounds=5,
    settled_steps=13_000,
    sets=5,
    quiet_pieces=5,
    graph_round_steps=200,
    server_steps=100,
    server_array_steps=10,
    rss_steps=(20_000, 100_000),
    fetch_sets=1000,
    import_repeats=3,
    form_steps=100,
    start_rounds=5,
)
TINY = Settings(
    rounds=2,
    round_steps=20,
    warm_up=5,
    graph_warm_up=5,
    settled_steps=50,
    sets=1,
    quiet_pieces=1,
    trigger_pieces=1,
    graph_round_steps=10,
    server_hooks=(3,),
    server_megabytes=(0.4,),
    server_warm_up=5,
    server_steps=10,
    server_array_steps=2,
    variables=5,
    estimator_steps=10,
    rss_steps=(50, 100),
    fetch_sets=16,
    import_repeats=1,
    checkpoint_mb=1,
    form_steps=4,
    start_ops=(400, 500),
    start_rounds=1,
    first_ops=400,
    batch_megabytes=1,
    batch_steps=2,
    batch_matmuls=1,
    batch_wait_secs=0.001,
)
