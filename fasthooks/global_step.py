"""The hooks' read of the global step, on the device that holds the step."""

from tensorflow.python.framework import ops
from tensorflow.python.training import training_util


def colocate_read() -> None:
    """Makes, in the default graph, the read of the global step that TensorFlow's hooks share, on the step's own device.

    TensorFlow's hooks make it when they begin, outside of the program's device scopes, so in a cluster it is placed on the
    worker: a condition, an addition and what they need of the parameter server's variable come over the network on every
    step. Nothing is done where the graph has the read already, has no global step or may not be changed any more.
    """
    graph = ops.get_default_graph()
    global_step = training_util.get_global_step(graph)
    if global_step is not None and not graph.finalized:
        with graph.device(None), graph.device(global_step.device):
            training_util._get_or_create_global_step_read(graph)
