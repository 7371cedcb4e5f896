"""What TensorBoard shows beyond the tutorial's tags: a page laid out for this network, and where it is wrong.

Training and evaluation write the same layout, so that what several runs have in common is one chart with a line a run.
"""

import re

import numpy as np
import tensorflow.compat.v1 as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.text import summary as text

from cifar10.network import recipes
from cifar10.runs import drawings

MAX_CLASSES = 20  # with charts of their own, and with rows in the table
MAX_MISTAKES = 12
NO_CLASS = -1  # predicted where the logits are not finite

# Of TensorBoard's address: the Custom Scalars page without smoothing, which by default, 0.6, pulls what was measured a
# few times only far below its values.
UNSMOOTHED = "?smoothing=0#custom_scalars&_smoothingWeight=0"

# {category: {chart: regular expressions of its tags}}. The tutorial's `<loss> (raw)` is not there, because TensorBoard
# 2.21 draws an empty chart of a tag with a bracket in it; the raw total loss is, as the console prints it.
LAYOUT = {
    "Learning": {
        "Precision @ 1": ["Precision @ 1"],
        "Total loss: averaged from 0 on, and raw as on the console": ["total_loss", "console/loss"],
        "Cross entropy, averaged from 0 on": ["cross_entropy"],
        "Weight decay, averaged from 0 on": [".*weight_loss"],
        "Learning rate": ["learning_rate"],
    },
    "Layers: sparsity, the fraction of activations that are 0": {
        f"sparsity, {layer}": [f"{layer}/sparsity"] for layer in recipes.LAYERS
    },
    "Speed": {
        "Examples/sec": ["console/examples_per_sec"],
        "Sec/batch": ["console/sec_per_batch"],
        "Milliseconds a step waits for its input": ["input/wait_ms"],
    },
}


# Charts of each class: a chart has the colour of its run for all its lines, so what is to be told apart is not on one.
CLASS_CHARTS = {"recall": "share of the class that is found", "precision": "share of what is found that is right"}


def layout(class_names=None):
    """Returns {category: {chart: regular expressions of its tags}}, of each class too if they are not too many."""
    names = _tags(class_names or ())
    if len(names) > MAX_CLASSES:
        names = []
    of_classes = {
        f"{measure.capitalize()}: {meaning}": {f"{measure}, {name}": [re.escape(f"{measure}/{name}")] for name in names}
        for measure, meaning in CLASS_CHARTS.items()
    }
    return {**LAYOUT, **(of_classes if names else {})}


def opening(facts, class_names=None):
    """Returns what a run begins with: the layout of the Custom Scalars page, and a table of facts on the Text page.

    Args:
      facts: {name: value}, each with a text that says it on one line.
      class_names: one name a class, or None for no charts of them.

    Returns:
      A tf.Summary.
    """
    return _join(custom_scalar.pb(_layout(class_names)), text.pb("run", _table([*facts.items()])))


def facts(program, step, data, recipe, start_step, max_steps):
    """Returns what a training run is, for `opening`.

    Args:
      program: {name: value} of the program: see history.program.
      step: the steps.Step.
      data: the trainer.TrainingData.
      recipe: the recipes.Recipe.
      start_step, max_steps: the global steps that it starts from and ends at.
    """
    dataset = data.source.dataset
    held_out = f", of which {data.num_held_out:,} are held out" if data.num_held_out else ""
    orthogonalized = {}
    if recipe.orthogonalized:
        decay = f"weight decay {recipe.orthogonal_decay:g}, and no other"
        orthogonalized["hidden layers' weights"] = f"orthogonalized updates, {decay}"
    cropped = f"crops, in the last {recipe.calm:.0%} near the centre" if recipe.calm else "crops"
    flips = "alternating flips" if recipe.alternating_flip else "random flips"
    return {
        **program_facts(program),
        "first step": f"{start_step:,}",
        "last step": f"{max_steps:,}",
        "data set": f"{dataset.name}: {dataset.num_examples('train'):,} training and "
        f"{dataset.num_examples('test'):,} test images of {dataset.num_classes} classes{held_out}",
        "classes": ", ".join(dataset.class_names),
        "images a step": f"{step.global_batch_size:,} (towers: {step.num_slices})",
        "recipe": recipe.name + (f", but for {recipe.changes}" if recipe.changes else ""),
        "learning rate": str(recipe.learning_rate),
        "momentum": f"{recipe.momentum:g}",
        "label smoothing": f"{recipe.label_smoothing:g}",
        "weight decay": f"{recipe.weight_decay:g} beside the network's own",
        **orthogonalized,
        "distortions": ", ".join([cropped, flips if dataset.flip else "no flips", *["jitter"] * recipe.jitter]),
        "moving averages": f"of the variables {recipe.moving_average_decay:g} a step, "
        f"of the losses {recipes.LOSS_AVERAGE_DECAY:g} a step",
    }


def program_facts(program):
    """Returns the rows of the table that every program has (program: see history.program)."""
    return {
        "program": program["program"],
        "arguments": " ".join(f"`{argument}`" for argument in program["arguments"]),
        "versions": ", ".join(f"{name} {version}" for name, version in program["versions"].items()),
    }


def outcomes(logits, labels):
    """Builds what there is to know of each image but its logits, which may be many.

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch]; a label that is no class counts for nothing.

    Returns:
      A dict of tensors [batch]: `label`, int32; `correct`, bool, as tf.nn.in_top_k decides it, so also true where
      another class has the very same logit; `predicted`, int32, the label where correct, else the class of the largest
      logit, or NO_CLASS; `probability` and `label_probability`, float32, of the predicted class and of the label.
    """
    classes = logits.shape.as_list()[1]
    correct = tf.nn.in_top_k(logits, labels, 1)
    largest = tf.argmax(logits, 1, output_type=tf.int32)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    predicted = tf.where_v2(correct, labels, tf.where_v2(finite, largest, NO_CLASS))
    probabilities = tf.nn.softmax(logits)

    def probability(of):
        return tf.reduce_sum(probabilities * tf.one_hot(of, classes), axis=1)

    return {
        "label": labels,
        "correct": correct,
        "predicted": predicted,
        "probability": probability(predicted),
        "label_probability": probability(labels),
    }


def confusion_matrix(label, predicted, num_classes):
    """Returns the number of images of class i that are taken for class j, int [i, j].

    Args:
      label, predicted: int [n]; images with NO_CLASS are left out.
      num_classes: int.
    """
    some = predicted != NO_CLASS
    cells = label[some].astype(np.int64) * num_classes + predicted[some]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def evaluation(found, images, class_names):
    """Returns where an evaluation is right and where it is wrong.

    Args:
      found: {name: values of n images} of the tensors that `outcomes` builds.
      images: uint8 [n, height, width, 3], the images in the same order.
      class_names: one name a class.

    Returns:
      A tf.Summary: `recall/<class>` and `precision/<class>`, where they are defined and if there are no more than
      MAX_CLASSES; an image of the confusion matrix; one of the mistakes that the network is surest of; a table of the
      classes with the lowest recall.
    """
    label, predicted = found["label"], found["predicted"]
    matrix = confusion_matrix(label, predicted, len(class_names))
    support = np.bincount(label, minlength=len(class_names))
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, which is not shown
        recall, precision = matrix.diagonal() / support, matrix.diagonal() / matrix.sum(axis=0)

    values = [_image("evaluation/confusion_matrix", drawings.confusion_matrix(matrix, class_names))]
    if len(class_names) <= MAX_CLASSES:
        for i, name in enumerate(_tags(class_names)):
            measures = {f"recall/{name}": recall[i], f"precision/{name}": precision[i]}
            values += [tf.Summary.Value(tag=t, simple_value=value) for t, value in measures.items() if value == value]

    mistakes = np.flatnonzero(~found["correct"] & (predicted != NO_CLASS))
    surest = mistakes[np.argsort(-found["probability"][mistakes], kind="stable")][:MAX_MISTAKES]
    if surest.size:
        captions = [
            (
                f"{class_names[label[i]]} {found['label_probability'][i]:.2f}",
                f"{class_names[predicted[i]]} {found['probability'][i]:.2f}",
            )
            for i in surest
        ]
        values.append(_image("evaluation/mistakes", drawings.mistakes(images[surest], captions)))

    rows = [["class", "images", "recall", "precision", "most often taken for"]]
    for i in np.argsort(recall, kind="stable")[:MAX_CLASSES]:  # NaN, of no images, comes last
        others = np.where(np.arange(len(class_names)) == i, 0, matrix[i])
        other = f"{class_names[others.argmax()]} ({others.max():,})" if others.any() else ""
        rows.append([class_names[i], f"{support[i]:,}", _fraction(recall[i]), _fraction(precision[i]), other])
    return _join(tf.Summary(value=values), text.pb("evaluation/classes", _table(rows)))


def _layout(class_names):
    def chart(title, tags):
        return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^({t})$" for t in tags]))

    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=[chart(*item) for item in charts.items()])
            for title, charts in layout(class_names).items()
        ]
    )


def _tags(class_names):
    """Returns each name as part of a tag: without what means something there, and with its label if not unique so."""
    plain = [re.sub(r"[^\w.\-]+", "_", name) for name in class_names]
    return [name if plain.count(name) == 1 else f"{name}_{label}" for label, name in enumerate(plain)]


def _image(tag, image):
    image = tf.Summary.Image(
        height=image.height, width=image.width, colorspace=3, encoded_image_string=drawings.png(image)
    )
    return tf.Summary.Value(tag=tag, image=image)


def _table(rows):
    """Returns rows of texts, of which the first is the head, in Markdown."""
    head, *body = [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def _fraction(value):
    return f"{value:.3f}" if value == value else ""


def _join(*parts):
    return tf.Summary(value=[value for part in parts for value in part.value])
