"""Loss -> train op: the learning rate, the update of the variables, and their moving averages."""

import tensorflow.compat.v1 as tf

from cifar10.data.datasets import NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN
from cifar10.network import losses, muon, recipes, summaries

_SCOPE = "train/"  # with its slash, so that entering it again continues it


def learning_rate(schedule, global_step, batch_size, num_examples=NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN, max_steps=None):
    """Builds the learning rate of a schedule.

    Args:
      schedule: a recipes.Staircase or a recipes.Triangle.
      global_step: integer scalar, the number of updates done.
      batch_size: images an update, of all towers or workers together.
      num_examples: images an epoch.
      max_steps: the global step at which training, and a triangle, ends; beyond it a triangle is 0.

    Returns:
      float32 scalar.
    """
    with tf.name_scope(_SCOPE):
        if isinstance(schedule, recipes.Staircase):
            decay_steps = int(num_examples / batch_size * schedule.num_epochs_per_decay)
            return tf.train.exponential_decay(
                schedule.initial, global_step, decay_steps, schedule.decay_factor, staircase=True
            )
        done = tf.cast(global_step, tf.float64) / max(1, max_steps)
        rising = schedule.start + (1.0 - schedule.start) * done / schedule.warm_up
        falling = (1.0 - done) / (1.0 - schedule.warm_up)
        return tf.cast(schedule.peak * tf.maximum(tf.minimum(rising, falling), 0.0), tf.float32)


def train(total_loss, global_step, learning_rate, recipe=recipes.TUTORIAL, loss_scale=None):
    """Builds one step of gradient descent on total_loss: see apply_gradients, and loss_scaling for loss_scale."""
    variables = trained(recipe)
    with tf.name_scope(_SCOPE):
        if loss_scale is None:
            gradients, finite = tf.gradients(total_loss, variables), None
        else:
            gradients, finite = loss_scale.unscaled(tf.gradients(loss_scale.scaled(total_loss), variables))
        gradients = of_all(gradients, recipe)
    return apply_gradients(gradients, losses.by_tag(total_loss), global_step, learning_rate, recipe, finite)


def trained(recipe):
    """Returns those trainable variables of the current graph that the recipe does not freeze."""
    return [v for v in tf.trainable_variables() if v.op.name.partition("/")[0] not in recipe.frozen]


def of_all(gradients, recipe):
    """Returns one gradient a trainable variable, None of a frozen one, from those of the `trained` ones."""
    by_name = {v.op.name: gradient for v, gradient in zip(trained(recipe), gradients, strict=True)}
    return [by_name.get(v.op.name) for v in tf.trainable_variables()]


def apply_gradients(gradients, tagged, global_step, learning_rate, recipe=recipes.TUTORIAL, finite=None):
    """Builds the update of a step: variables, then their moving averages; averages of the losses; summaries.

    Variables and losses keep the tutorial's names in checkpoints: `<variable>/ExponentialMovingAverage`, `<loss>/avg`.
    The moving average starts at the variable's initial value; its decay is
    min(recipe.moving_average_decay, (1 + n) / (10 + n)), where n is the global step after the update. The average of a
    loss starts at 0.

    Args:
      gradients: one tensor or None per trainable variable.
      tagged: {tag: scalar tensor}, the losses.
      global_step: integer variable, incremented by the update.
      learning_rate: float32 scalar.
      recipe: the recipes.Recipe, of which momentum, weight decay, orthogonalized and moving_average_decay count here.
      finite: None, or a bool scalar: where it is false all gradients are 0, and a step with momentum changes nothing.

    Returns:
      The op that runs the step.
    """
    variables = tf.trainable_variables()
    with tf.name_scope(_SCOPE):
        summaries.scalar("learning_rate", learning_rate)
        # What summaries show are the values that the step's loss was computed with (D7), hence read before the update.
        values = [_read(variable) for variable in variables]
        if recipe.weight_decay or recipe.orthogonalized:
            gradients = _with_weight_decay(gradients, variables, values, tagged, recipe)
        for variable, value, gradient in zip(variables, values, gradients, strict=True):
            summaries.histogram(variable.op.name, value)
            if value.shape.rank == 4 and value.shape[2] in (1, 3):  # a convolution of images: can be seen as images
                summaries.filters(f"{variable.op.name.rpartition('/')[0]}/filters", value)
            if gradient is not None:
                summaries.histogram(f"{variable.op.name}/gradients", gradient)
        with tf.control_dependencies([*average_losses(tagged), *values, learning_rate]):
            if recipe.momentum or recipe.orthogonalized:
                update = _accelerated(gradients, variables, global_step, learning_rate, recipe, finite)
            else:
                optimizer = tf.train.GradientDescentOptimizer(learning_rate)
                update = optimizer.apply_gradients(zip(gradients, variables, strict=True), global_step)
        with tf.control_dependencies([update]):
            n = tf.cast(global_step.read_value(), tf.float32)
            decay = tf.minimum(recipe.moving_average_decay, (1.0 + n) / (10.0 + n))
            averages = [_average_variable(variable, decay) for variable in variables]
            return tf.group(averages, name="train_op")


def _read(variable):
    with tf.device(variable.device):  # a copy elsewhere would be sent there at every step
        return variable.read_value()


def _with_weight_decay(gradients, variables, values, tagged, recipe):
    """Returns the gradients with the weight decay of those weights that have none in the losses.

    Weights whose updates are orthogonalized decay apart from their gradient: theirs is returned without any.
    """
    decayed = []
    for gradient, variable, value in zip(gradients, variables, values, strict=True):
        layer, _, kind = variable.op.name.rpartition("/")
        if kind == "weights" and gradient is not None:
            own = tagged.get(f"{layer}/weight_loss")
            with tf.device(variable.device):
                if not _is_orthogonalized(variable, recipe):
                    gradient = gradient + recipe.weight_decay * value if own is None else gradient
                elif own is not None:
                    gradient = gradient - tf.gradients(own, variable)[0]
        decayed.append(gradient)
    return decayed


def _is_orthogonalized(variable, recipe):
    return recipe.orthogonalized and muon.shape_of_matrices(variable) is not None


def _accelerated(gradients, variables, global_step, learning_rate, recipe, finite):
    """Builds a step of Nesterov's accelerated gradient: m = momentum m + g, v = v - learning_rate (g + momentum m).

    Each m is a local variable beside its variable v, so checkpoints do not hold it; it is saved beside them. Where the
    recipe says so, the updates of hidden weights are orthogonalized: see muon.
    Source: Sutskever et al., On the importance of initialization and momentum in deep learning (2013), in the form of
    Bengio et al., Advances in Optimizing Recurrent Networks (2012).
    """
    momentum = recipe.momentum
    if finite is not None:
        learning_rate = tf.where_v2(finite, learning_rate, 0.0)
        momentum = tf.where_v2(finite, momentum, 1.0)  # m stays what it is
    updates = []
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None:
            continue
        with tf.device(variable.device):
            slot = tf.get_variable(
                f"{variable.op.name}/Momentum",
                variable.shape,
                tf.float32,
                tf.zeros_initializer(),
                trainable=False,
                collections=[tf.GraphKeys.LOCAL_VARIABLES],
                use_resource=True,
            )
            if finite is not None:  # weight decay is not 0 where all else is
                gradient = tf.where_v2(finite, gradient, tf.zeros_like(gradient))
            if _is_orthogonalized(variable, recipe):
                updates.append(muon.update(variable, slot, gradient, learning_rate, momentum, recipe.orthogonal_decay))
                continue
            updates.append(
                tf.raw_ops.ResourceApplyMomentum(
                    var=variable.handle,
                    accum=slot.handle,
                    lr=learning_rate,
                    grad=gradient,
                    momentum=momentum,
                    use_nesterov=True,
                )
            )
    with tf.control_dependencies(updates), tf.device(global_step.device):
        return global_step.assign_add(1, read_value=False)


def _average_variable(variable, decay):
    """Updates `<variable>/ExponentialMovingAverage`, as tf.train.ExponentialMovingAverage would.

    That class makes the average's initial value a tf.cond a variable, which clutters the graph page and takes time at
    the start; here it is the tensor of the variable's own initial value. It is on the variable's device.
    """
    with tf.device(variable.device):
        average = tf.get_variable(
            f"{variable.op.name}/ExponentialMovingAverage",
            initializer=variable.initial_value,
            trainable=False,
            use_resource=True,
        )
        # The kernel of gradient descent subtracts a multiple in one pass over memory, assign_sub in two.
        return tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=1.0 - decay, delta=average - variable)


def average_losses(tagged):
    """Builds the moving averages of losses, {tag: scalar tensor}, and their charts; returns the averages, updated."""
    return [_average_loss(tag, value) for tag, value in tagged.items()]


def _average_loss(tag, value):
    """Updates the variable `<tag>/avg`, and shows it as `<tag>` beside the raw loss as `<tag> (raw)`."""
    with tf.device("/cpu:0"):
        average = tf.get_variable(
            f"{tag}/avg", [], tf.float32, tf.zeros_initializer(), trainable=False, use_resource=True
        )
        updated = average.assign_sub((1.0 - recipes.LOSS_AVERAGE_DECAY) * (average - value), read_value=True)
    summaries.scalar(f"{tag} (raw)", value)
    summaries.scalar(tag, updated)
    return updated
