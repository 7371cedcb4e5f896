"""What each process of a training on several machines does: the chief, a worker, a parameter server."""

import concurrent.futures
import threading

import tensorflow.compat.v1 as tf

from cifar10.cluster import exchange, members, workers
from cifar10.cluster.chief import Chief
from cifar10.data import datasets, download, records
from cifar10.errors import ClusterError, UserError
from cifar10.machine import devices
from cifar10.network import microbatches, training
from cifar10.network.model import NETWORKS
from cifar10.network.recipes import RECIPES
from cifar10.runs import trainer

# What TensorFlow raises where another process has ended, or has been started again and knows nothing of before.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError,
)
THREADS_BESIDE_OTHERS = 2  # of a worker that shares its machine; more of them only take turns


def train(
    here,
    listen_on_network,
    max_wait_secs,
    log_device_placement,
    use_fp16,
    seed,
    model,
    lrn,
    microbatch_size,
    sync,
    backup_workers,
    recipe,
    **options,
):
    """Takes this process's part in the training, until that has ended; the arguments are the script's flags.

    Args:
      here: the members.Cluster.
      listen_on_network: see members.serve.
      max_wait_secs: see members.Waiting.
      log_device_placement: see devices.session_config.
      use_fp16, seed, lrn, microbatch_size: see model.inference.
      model: name of the network, of model.NETWORKS.
      sync, backup_workers: see chief.Chief.
      recipe: name of a recipe, of recipes.RECIPES.
      **options: see trainer.train.

    Raises:
      UserError: what the user has to mend.
    """
    if backup_workers >= len(here.workers) or (backup_workers and not sync):
        raise ClusterError(
            f"--backup_workers={backup_workers}: of {len(here.workers)} workers, who must be synchronous, one at least "
            "must be waited for"
        )
    if RECIPES[recipe].momentum and not sync:
        raise ClusterError(
            f"--nosync: --recipe={recipe} has momentum, which asynchronous workers have not; leave one of them out"
        )
    microbatch_size = microbatches.size(microbatch_size)
    network = {
        "build": NETWORKS[model],
        "use_fp16": use_fp16,
        "seed": seed,
        "lrn": lrn,
        "microbatch_size": microbatch_size,
        "recipe": RECIPES[recipe],
    }
    num_microbatches = here.workers_on_this_machine * microbatches.count(options["batch_size"], microbatch_size)
    config = devices.session_config(num_microbatches, log_placement=log_device_placement)
    if here.workers_on_this_machine > 1:
        # They share its cores: a thread that spins while it waits takes the others' time, and one that is busy with
        # pictures must not keep another worker waiting for variables.
        config.experimental.disable_thread_spinning = True
        config.inter_op_parallelism_threads = THREADS_BESIDE_OTHERS
    server = members.serve(here, config, listen_on_network)
    waiting = members.Waiting(here, max_wait_secs)
    if here.job == "ps":
        _hold(here, server, waiting)
        return
    if use_fp16:
        devices.warn_if_half_precision_is_slow()
    config = exchange.session_config(here, config)
    settings = exchange.settings(
        here, options["batch_size"], sync, options["dataset"], model, seed, use_fp16, recipe, options["num_held_out"]
    )
    if here.is_chief:
        _lead(here, server, waiting, config, settings, network, sync, backup_workers, model=model, **options)
    else:
        _work(here, server, waiting, config, settings, network, sync, **options)


def _lead(
    here, server, waiting, config, settings, network, sync, backup_workers, batch_size, max_steps, restart, **options
):
    """Trains as the chief, from the newest checkpoint again whenever a parameter server is gone."""
    while True:
        waiting.until_answering(f"ps {i}" for i in range(len(here.ps)))
        worker = workers.Worker(here, batch_size, sync, options["save_summaries_steps"], settings=settings, **network)
        chief = Chief(
            here, worker, exchange.new_life(settings), server, config, max_steps, waiting, sync, backup_workers
        )
        try:
            trainer.train(
                chief.build_step,
                batch_size=batch_size,
                restart=restart,
                seed=network["seed"],
                recipe=network["recipe"],
                num_towers=len(here.workers) if sync else 1,
                placement=exchange.placement(here),
                build_input=chief.build_input,
                max_steps=max_steps,
                master=server.target,
                before_step=chief.before_step,
                config=config,
                **options,
            )
        except LOST:
            if not here.ps:
                raise  # there is nobody to lose
            _say_lost(here)
            restart = False
            continue
        except UserError:
            chief.close()
            chief.dismiss(exchange.FAILED)
            raise
        finally:
            chief.close()
        chief.dismiss(exchange.END)
        return


def _work(
    here,
    server,
    waiting,
    config,
    settings,
    network,
    sync,
    data_dir,
    dataset,
    data_url,
    data_sha256,
    batch_size,
    num_held_out,
    max_steps,
    **_,
):
    """Computes what the chief orders."""
    data = datasets.named(dataset, data_dir)
    num_examples = records.num_trained_on(data, num_held_out)
    download.ensure(data, data_dir, data_url, data_sha256)
    examples = records.load(data, data_dir, "train").part(0, num_examples)
    worker = workers.Worker(here, batch_size, sync, settings=settings, **network)
    with tf.Graph().as_default() as graph, tf.device(exchange.placement(here)):
        global_step = tf.train.get_or_create_global_step()
        images, labels = worker.build_input(examples, network["seed"], data.flip)
        # Of one who is asynchronous.
        recipe = network["recipe"]
        max_steps = recipe.max_steps(num_examples, batch_size) if max_steps is None else max_steps
        learning_rate = training.scheduled(recipe.learning_rate, global_step, max_steps, batch_size, num_examples)
        worker.build_step(images, labels, global_step, learning_rate, data.num_classes)
    _follow(here, server, waiting, graph, config, worker.work, settings)


def _hold(here, server, waiting):
    """Holds variables, which TensorFlow's server does by itself, until the chief says that training has ended."""
    with tf.Graph().as_default() as graph:
        message = exchange.orders_to(here, "ps", here.task).next()

    def work(session, heard):
        while True:
            order = session.run(message).tolist()
            heard(order)
            if order[1] < 0:
                return order[1]

    _follow(here, server, waiting, graph, tf.ConfigProto(device_filters=[here.device]), work)


def _follow(here, server, waiting, graph, config, work, settings=None):
    """Calls work(session, heard) until it returns the chief's last order, and again whenever somebody is gone."""
    chief = here.worker_name(0)
    needed = [chief, *(f"ps {i}" for i in range(len(here.ps)))] if here.job == "worker" else [chief]
    news = threading.Event()

    def missing():
        names = waiting.silent(None if here.job == "worker" else needed)
        # A parameter server gets no orders while all is well.
        return waiting.describe(names) or (f"the next step from {chief}" if here.job == "worker" else "")

    def heard(order):
        if here.job == "worker" and exchange.settings_of(order[0]) != settings:
            raise ClusterError(
                f"{here.name}: {chief} was started with another cluster, --batch_size, --sync, --dataset, --model, "
                "--seed, --use_fp16, --recipe or --num_held_out; start all with the same"
            )
        news.set()

    def look():
        if news.is_set():
            news.clear()
            waiting.over()
        else:
            waiting.look(missing)

    while True:
        waiting.until_answering(needed)
        try:
            with tf.Session(server.target, graph=graph, config=config) as session:
                order = _watched(lambda session=session: work(session, heard), look, session)
            break
        except LOST:
            _say_lost(here)
    if order == exchange.FAILED:
        raise ClusterError(f"{here.name}: the chief has given up; its last line says why")


def _watched(work, look, session):
    """Returns work(), which waits in the session; calls look() meanwhile, and ends the waiting if that raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            while not concurrent.futures.wait([future], timeout=members.POLL_SECS).done:
                look()
        except BaseException:
            session.close()
            raise
        return future.result()


def _say_lost(here):
    holders = ", ".join(f"ps {i}" for i in range(len(here.ps))) or "the chief"
    print(f"{here.name}: lost the connection to {holders}; waiting for it to come back", flush=True)
