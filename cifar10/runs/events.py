"""The event file of a run or an evaluation, which TensorBoard reads."""

import contextlib
import os
import socket
import time

import tensorflow.compat.v1 as tf

VERSION = "brain.Event:2"  # the format's; tensorflow/core/util/event.proto


class EventFile:
    """Event file in a directory, written at once and by the calling thread.

    Dashboards are no reason to end a run: where it cannot be written, a line says so, and the next event is tried in a
    new file, as it is where the directory was removed.
    """

    def __init__(self, directory):
        self._directory = directory
        self._path = None
        self._writer = None
        self._failing = False
        self._num_files = 0
        self._num_events = 0  # in the file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def add_summary(self, summary, step):
        """Adds a tf.Summary, or one as bytes, of a global step."""
        if isinstance(summary, bytes):
            summary = tf.Summary.FromString(summary)
        self._add(tf.Event(summary=summary, step=step))

    def add_graph(self, graph):
        """Adds a tf.Graph."""
        self._add(tf.Event(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString()))

    def add_run_metadata(self, metadata, tag, step):
        """Adds the trace of a step, tf.RunMetadata, under a tag."""
        event = tf.Event(step=step)
        event.tagged_run_metadata.tag = tag
        event.tagged_run_metadata.run_metadata = metadata.SerializeToString()
        self._add(event)

    def add_start(self, step):
        """Says that training begins at a step: what an interrupted run wrote of later ones is out of date."""
        self._add(tf.Event(session_log=tf.SessionLog(status=tf.SessionLog.START), step=step))

    def close(self):
        """Ends the file; a later event begins another."""
        if self._writer is not None:
            try:
                self._writer.close()
            except tf.errors.OpError as error:
                self._report(error)
            self._writer = None

    def _add(self, event):
        try:
            if self._writer is None or not os.path.exists(self._path):
                self._open()
            event.wall_time = time.time()
            self._writer.write(event.SerializeToString())
            self._writer.flush()
            self._num_events += 1
            self._failing = False
        except (OSError, tf.errors.OpError) as error:
            self._report(error)
            self.close()
            if not self._num_events and self._path is not None:
                with contextlib.suppress(OSError):
                    os.remove(self._path)

    def _open(self):
        self.close()
        os.makedirs(self._directory, exist_ok=True)
        stem = os.path.join(
            self._directory, f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        )
        while os.path.exists(f"{stem}.{self._num_files}"):  # of a run in this process within this second
            self._num_files += 1
        self._num_events = 0
        self._path = f"{stem}.{self._num_files}"
        self._num_files += 1
        self._writer = tf.io.TFRecordWriter(self._path)
        self._writer.write(tf.Event(wall_time=time.time(), file_version=VERSION).SerializeToString())

    def _report(self, error):
        if not self._failing:
            self._failing = True
            why = (getattr(error, "strerror", None) or str(getattr(error, "message", error))).splitlines()[0]
            print(f"{self._directory}: summaries cannot be written ({why}); going on without them", flush=True)
