"""Command-line flags: the three that importing the package defines, those that the scripts share, and their reading.

Flags stop here, at the package's own functions and at the scripts; everything below takes values.
"""

import argparse
import os
import re
import sys

import tensorflow.compat.v1 as tf
from absl import app, flags, logging

from cifar10.cifar10_input import MIN_FRACTION_OF_EXAMPLES_IN_QUEUE
from cifar10.data import datasets
from cifar10.data.pictures import SIZES
from cifar10.errors import UserError, refuse_scheme
from cifar10.machine import console, signals
from cifar10.network import model, recipes
from cifar10.network.layers import CONV_KINDS, LRN_KINDS
from cifar10.version import __version__

WITH_TENSORFLOW = ("train_dir", "checkpoint_dir", "checkpoint", "eval_dir", "export_dir")  # paths that it opens

CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"  # characters that a console obeys, or that begin a line

MAX_INTEGER = 2**63 - 1  # of an int64, as which TensorFlow takes numbers

flags.DEFINE_integer(
    "batch_size",
    128,
    "Number of images to process in a batch.",
    lower_bound=1,
    upper_bound=recipes.LARGEST_BATCH,
)
flags.DEFINE_string("data_dir", "/tmp/cifar10_data", "Path to the CIFAR-10 data directory.")
flags.DEFINE_boolean(
    "use_fp16",
    False,
    "Compute in half precision; variables and checkpoints stay float32. Slower on CPUs without bfloat16 units.",
)


class PackageFlags:
    """The flags as attributes, of which the package's own are readable before absl has parsed the command line.

    Before that, as in a notebook, under pytest or in a script without app.run, a flag that was not set in code is
    looked for in sys.argv, where everything else is none of the package's business and left alone.
    """

    NAMES = ("batch_size", "data_dir", "use_fp16")

    def __getattr__(self, name):
        if name not in self.NAMES or flags.FLAGS.is_parsed():
            return getattr(flags.FLAGS, name)
        flag = flags.FLAGS[name]
        if flag.using_default_value:
            alone = flags.FlagValues()
            alone[name] = flag
            alone(sys.argv or [""], known_only=True)
        return flag.value

    def __setattr__(self, name, value):
        setattr(flags.FLAGS, name, value)


FLAGS = PackageFlags()


def undefine():
    """Takes back the flags that importing the package defines, for a program that defines its own of these names."""
    for name in PackageFlags.NAMES:
        delattr(flags.FLAGS, name)


class _SetsFlag(argparse.Action):
    """Sets the flag of the option's name, too."""

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, value)
        setattr(flags.FLAGS, self.dest, value)


def _argument_parser():
    """Returns the package's flags as an argparse.ArgumentParser, as the tutorial had them in late 2017.

    Forks add options of their own to it. What it parses are the values of the flags, too.
    """
    parser = argparse.ArgumentParser()
    for name, kind in (("batch_size", int), ("data_dir", str), ("use_fp16", flags.BooleanParser().parse)):
        flag = flags.FLAGS[name]
        value = {"nargs": "?", "const": True} if flag.boolean else {}
        parser.add_argument(f"--{name}", type=kind, default=flag.default, help=flag.help, action=_SetsFlag, **value)
    return parser


parser = _argument_parser()


def define_data_flags(dataset="cifar10"):
    """Defines the flags that say which images to use; dataset: the default, or None for what is on record."""
    flags.DEFINE_enum(
        "dataset",
        dataset,
        list(datasets.NAMES),
        ("" if dataset else "Default: what the run was trained on. ")
        + "Images to use: those of cifar10, of cifar100 with its 100 fine or its 20 coarse labels, and of svhn are "
        "downloaded unless they are in data_dir; synthetic is drawn on the spot; images are your own, from "
        "cifar10_import_images.py.",
    )
    flags.DEFINE_string(
        "data_url", None, "Mirror to download the archive from; it must be the published one, byte by byte."
    )
    flags.DEFINE_string(
        "data_sha256", None, "What the archive must hash to, in hex, in place of the published size and sha256."
    )
    flags.register_validator(
        "data_sha256",
        lambda value: value is None or re.fullmatch("[0-9a-fA-F]{64}", value),
        message="a sha256 has 64 hexadecimal digits",
    )


def define_training_flags():
    """Defines the flags that the training scripts share."""
    define_data_flags()
    flags.DEFINE_enum(
        "model",
        "tutorial",
        list(model.NETWORKS),
        "Network to train: the tutorial's, or cuda-convnet's of 11 % error, whose top layers are locally connected; "
        "or one of them without local response normalization.",
    )
    flags.DEFINE_integer(
        "image_size",
        datasets.IMAGE_SIZE,
        "Height and width, in pixels, of the crop of an image that the network sees; 32 is the whole image.",
        lower_bound=8,
        upper_bound=datasets.HEIGHT,
    )
    flags.DEFINE_enum(
        "lrn",
        "auto",
        LRN_KINDS,
        "Local response normalization: op is tf.nn.lrn, matmul the same faster on CPUs, auto matmul without GPUs.",
    )
    flags.DEFINE_enum(
        "conv",
        "auto",
        CONV_KINDS,
        "Convolution: op is tf.nn.conv2d, winograd the same with fewer multiplications, which is faster on CPUs, where "
        "there are many channels; auto winograd without GPUs.",
    )
    flags.DEFINE_integer(
        "microbatch_size",
        None,
        "Images computed together, each core on its own; 0: the whole batch, as the tutorial does. Default: 32 on "
        "CPUs, 0 on GPUs.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "train_dir",
        "/tmp/cifar10_train",
        "Directory where to write event logs and checkpoints. A run that is in it already is continued.",
    )
    flags.DEFINE_boolean(
        "restart", False, "Begin anew: the run in train_dir is moved aside to train_dir.<date>, not deleted."
    )
    flags.DEFINE_enum(
        "recipe",
        "tutorial",
        list(recipes.RECIPES),
        "How to train. tutorial: gradient descent, the learning rate a tenth every 350 epochs. fast: Nesterov "
        "momentum, the learning rate once up and down, smoothed labels and milder distortions, for fewer epochs. muon: "
        "as fast, with orthogonalized updates, for fewer epochs still; with --batch_size=512.",
    )
    flags.DEFINE_integer(
        "max_steps",
        None,
        "Global step at which to stop, where the learning rate of --recipe=fast and muon is 0. Default: "
        f"{recipes.MAX_STEPS}, or of these {recipes.FAST_NUM_EPOCHS:g} and {recipes.MUON_NUM_EPOCHS:g} epochs.",
        lower_bound=0,
        upper_bound=recipes.LAST_STEP,
    )
    flags.DEFINE_integer(
        "num_held_out",
        0,
        "How many training images, the last ones, are not trained on but kept for cifar10_eval.py "
        "--eval_data=held_out, to compare trainings without a look at the test images.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "log_frequency", 10, "How many steps between two lines on the console; 0: none.", lower_bound=0
    )
    flags.DEFINE_boolean("log_device_placement", False, "Whether to log on which device each operation runs.")
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of initial values, order of images and distortions: the same seed gives the same run.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_integer("save_checkpoint_secs", 600, "Seconds between two checkpoints.", lower_bound=1)
    flags.DEFINE_integer(
        "save_checkpoint_steps", 0, "Steps between two checkpoints, instead of seconds; 0: use seconds.", lower_bound=0
    )
    flags.DEFINE_integer("keep_checkpoints", 5, "Number of checkpoints kept; 0: all.", lower_bound=0)
    flags.DEFINE_integer("save_summaries_steps", 100, "Steps between two summaries; 0: none.", lower_bound=0)
    flags.DEFINE_string(
        "profile_steps",
        None,
        "Steps to trace, a,b for a to b-1: which op ran when, as timeline-<step>.json in train_dir, for "
        "chrome://tracing, and on TensorBoard's graph page.",
    )
    flags.DEFINE_enum(
        "input_pipeline",
        "dataset",
        ["dataset", "queue"],
        "dataset: every image once an epoch, reproducible. queue: the tutorial's shuffling queue and 16 threads.",
    )
    flags.DEFINE_float(
        "min_fraction_of_examples_in_queue",
        MIN_FRACTION_OF_EXAMPLES_IN_QUEUE,
        "Fraction of an epoch that --input_pipeline=queue puts in its queue before the first step.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    define_hyper_parameter_flags()


def define_hyper_parameter_flags():
    """Defines the flags that change a recipe, and those of fine-tuning."""
    flags.DEFINE_float(
        "learning_rate",
        None,
        "Learning rate to begin with, or its peak. Default of this and of the next ones: the recipe's.",
        lower_bound=0.0,
        upper_bound=1e3,
    )
    flags.DEFINE_float(
        "momentum",
        None,
        "Part of the last update that the next one repeats (Nesterov).",
        lower_bound=0.0,
        upper_bound=0.9999,
    )
    flags.DEFINE_float(
        "weight_decay",
        None,
        "Weight decay of the layers that have none in the network itself; with --recipe=muon of the last one only.",
        lower_bound=0.0,
        upper_bound=1e3,
    )
    flags.DEFINE_float(
        "num_epochs",
        None,
        "Epochs after which training ends, instead of --max_steps.",
        lower_bound=0.0,
        upper_bound=1e6,
    )
    flags.DEFINE_float(
        "label_smoothing",
        None,
        "Part of a label's probability that is divided among all classes.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_boolean("jitter", None, "Give images another brightness and contrast.")
    flags.DEFINE_boolean("random_crops", None, "Crop images anywhere, not at the centre.")
    flags.DEFINE_string(
        "init_from",
        None,
        "Checkpoint, or folder of them, with whose weights a new run begins, to fine-tune them; or pretrained, the one "
        "that comes with the package. The last layer begins anew where its classes are others.",
    )
    flags.DEFINE_enum(
        "freeze", None, list(recipes.LAYERS[:-1]), "The last of the layers, from the image on, that are not trained."
    )


def define_validation_flags():
    """Defines the flags of what is evaluated between the steps of a training, which those of one machine have."""
    flags.DEFINE_integer(
        "eval_every_steps",
        0,
        "Steps between two evaluations in the training itself, of the moving averages; 0: none. Their event file is in "
        "train_dir/eval.",
        lower_bound=0,
    )
    flags.DEFINE_enum(
        "eval_data",
        None,
        ["test", "held_out"],
        "Images for --eval_every_steps; by default held_out where --num_held_out keeps some, and else test.",
    )
    flags.DEFINE_boolean("keep_best", False, "Keep the checkpoint of the highest precision, in train_dir/best.")
    flags.DEFINE_integer(
        "early_stopping",
        0,
        "Stop after so many evaluations in a row without a higher precision; 0: never.",
        lower_bound=0,
    )


def define_serving_flags():
    """Defines the flags of the scripts that use a trained network on images from anywhere."""
    flags.DEFINE_enum(
        "dataset",
        None,
        datasets.NAMES,
        "What the network was trained on, which gives its classes their names. By default what the run's record beside "
        "the checkpoint says, or cifar10.",
    )
    flags.DEFINE_string("checkpoint_dir", "/tmp/cifar10_train", "Directory whose newest readable checkpoint is used.")
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Checkpoint to use instead, as in /tmp/cifar10_train/model.ckpt-6000; or pretrained, the one that comes with "
        "the package.",
    )
    flags.DEFINE_boolean("use_moving_averages", True, "Use the moving averages of the variables.")
    flags.DEFINE_enum(
        "crop",
        "central",
        list(SIZES),
        "What the network sees of an image. central: as in evaluation, the central square, resized to 32x32, of that "
        "the central 24x24. whole: everything, resized to 24x24, whether that keeps its proportions or not.",
    )
    flags.DEFINE_boolean("list_classes", False, "Print the classes that the network knows, a line each, and end.")


def _refuse_no_numbers(script):
    """Lets parsing refuse, in each flag of a script, NaN, which no bound keeps out, and what no int64 holds."""
    for flag in flags.FLAGS.get_key_flags_for_module(script):
        if flag.flag_type() == "float":
            flags.register_validator(flag.name, lambda value: value is None or value == value, "give a number, not NaN")
        elif flag.flag_type() == "int":
            flags.register_validator(
                flag.name, lambda value: value is None or abs(value) <= MAX_INTEGER, f"give at most {MAX_INTEGER}"
            )


def _is_utf8(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_lost_folder(name, path):
    """Ends the program if a relative path leads nowhere, as the folder that the shell is in was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit(
            f"{os.path.basename(sys.argv[0])}: --{name}={path}: the current folder is not there any more; change to "
            "another one, or give a whole path"
        )


class _HelpFlag(app.HelpFlag):
    """--help, and -h."""

    SHORT_NAME = "h"


class _VersionFlag(flags.BooleanFlag):
    """Prints the version and ends the program, before any other flag can be found missing."""

    def __init__(self):
        super().__init__("version", False, "Show the version and exit.")

    def parse(self, arg):
        super().parse(arg)
        if self.value:
            print(f"{os.path.basename(sys.argv[0])} {__version__}")
            sys.exit()


def _parse(argv):
    """Parses a command line as absl does, but --help and its like, which did what was asked, end with exit code 0."""
    try:
        return flags.FLAGS(argv)
    except flags.Error:
        return app.parse_flags_with_usage(argv)  # which says what is wrong
    except SystemExit:
        sys.stdout.flush()
        sys.exit(1 if sys.stdout.fault else 0)


def main(run, positionals=None, complete=None):
    """Parses the command line strictly (D12), and calls run(**values) with each flag of the script and the package.

    A leading ~ in the path of a directory or checkpoint is the home directory. A UserError ends the program with exit
    code 1 and its one line on stderr; a signal with 128 + its number and a line.

    Args:
      run: function with a parameter for each flag.
      positionals: None: arguments that are no flags are refused. A name: at least one is wanted, and run gets the list
        of them as the parameter of that name; flags may also stand behind them, up to `--`.
      complete: None, or a function ({flag: value}, names of the flags that were given) -> {flag: value}.
    """
    script = sys.argv[0]
    console.install()
    app.define_help_flags()
    del flags.FLAGS.help
    flags.DEFINE_flag(_HelpFlag())
    flags.DEFINE_flag(_VersionFlag())
    flags.FLAGS.set_gnu_getopt(positionals is not None)
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(script, flag)  # so that --help shows them
    _refuse_no_numbers(script)

    def with_values(argv):
        for log in (tf.logging, logging):
            log.set_verbosity(log.ERROR)  # which app.run has set to INFO
        values = {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(script)}
        del values["version"], values["help"]
        for name in [
            name for name in values if name.endswith(("_dir", "checkpoint", "init_from")) and values[name] is not None
        ]:
            if not values[name]:
                raise app.UsageError(f"flag --{name}=: give it a path")
            values[name] = os.path.expanduser(values[name])
            if name in WITH_TENSORFLOW and not _is_utf8(values[name]):
                raise app.UsageError(f"flag --{name}={values[name]!a}: is not UTF-8, as TensorFlow needs a path")
            if re.search(CONTROL, values[name]):  # messages with it would not be one line
                raise app.UsageError(f"flag --{name}={values[name]!a}: holds a control character; choose another path")
            if not os.path.isabs(values[name]):
                _refuse_lost_folder(name, values[name])
        if positionals is not None:
            if len(argv) < 2 and not values.get("list_classes"):
                raise app.UsageError(f"no {positionals}: name at least one")
            values[positionals] = argv[1:]
        elif len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}: write flags as --name=value")
        try:
            for name, value in values.items():
                if name != "data_url":  # no other flag is an address
                    refuse_scheme(f"--{name}={value}", value)
            for name in values.get(positionals, ()):
                refuse_scheme(name, name)
            with signals.raised():
                if complete is not None:
                    given = {
                        name for name in values if name in flags.FLAGS and not flags.FLAGS[name].using_default_value
                    }
                    values = complete(values, given)
                run(**values)
            if sys.stdout and sys.stdout.fault:
                sys.exit(f"{os.path.basename(script)}: done, but output was lost ({sys.stdout.fault.strerror})")
        except UserError as error:
            sys.exit(f"{os.path.basename(script)}: {error}")
        except signals.Interrupted as interrupted:
            print(f"{os.path.basename(script)}: {interrupted}", file=sys.stderr, flush=True)
            raise

    app.run(with_values, flags_parser=_parse)
