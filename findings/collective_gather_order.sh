#!/usr/bin/env bash
# CollectiveGatherV2, the op under tf.distribute.MultiWorkerMirroredStrategy's all-gather, joins the workers' tensors in
# the order of their device names as text, not of their task numbers: with more than ten workers, task 10 comes between
# task 1 and task 2. Whoever takes row i for worker i's is right up to ten workers and silently wrong from the eleventh.
#
# tensorflow 2.21.0, twelve servers on 127.0.0.1, each of which gathers its own task number. Seen:
#   gathered: [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PYTHON'
import concurrent.futures
import socket

import tensorflow.compat.v1 as tf

WORKERS = 12
sockets = [socket.socket() for _ in range(WORKERS)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
addresses = ["127.0.0.1:%d" % each.getsockname()[1] for each in sockets]
for each in sockets:
    each.close()
cluster = tf.train.ClusterSpec({"worker": addresses})


def gather(task):
    config = tf.ConfigProto(device_filters=["/job:worker/task:%d" % task])
    config.experimental.collective_group_leader = "/job:worker/replica:0/task:0"
    server = tf.train.Server(cluster, job_name="worker", task_index=task, config=config)
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        gathered = tf.raw_ops.CollectiveGatherV2(
            input=[[task]],
            group_size=WORKERS,
            group_key=1,
            instance_key=1,
            ordering_token=[],
            timeout_seconds=60,
        )
        with tf.Session(server.target, config=config) as session:
            return session.run(gathered)[:, 0].tolist()


with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
    found = list(pool.map(gather, range(WORKERS)))
print("gathered:", found[0])
assert all(each == found[0] for each in found)
assert found[0] == sorted(range(WORKERS), key=str), "the order is another one now"
PYTHON
