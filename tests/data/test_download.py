"""Getting the data, against a server on this machine that misbehaves in one way at a time."""

import contextlib
import dataclasses
import errno
import gzip
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zlib

import pytest

from cifar10.data import datasets, download
from cifar10.data.datasets import CIFAR10, RECORD_BYTES, SYNTHETIC, Archive
from cifar10.errors import DataError
from cifar10.machine import locks

RECORDS = 20  # a file: enough that half an archive is more than download.CHUNK
FOLDER = CIFAR10.folder
FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
META = "batches.meta.txt"
TARBALL = "cifar-10-binary.tar.gz"
PAGE = b"\n<!DOCTYPE html><title>Please log in</title>"
_random = random.Random(1)
CONTENT = {name: _random.randbytes(RECORDS * RECORD_BYTES) for name in FILES} | {META: b"airplane\n"}


def tar_gz(*members):
    """Returns a .tar.gz of (name, content) pairs, where content may also be a tarfile type with its link target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return buffer.getvalue()


def members_of(content):
    return [(f"{FOLDER}/{name}", data) for name, data in content.items()]


WHOLE = tar_gz((FOLDER, (tarfile.DIRTYPE, "")), *members_of(CONTENT), (f"{FOLDER}/readme.html", PAGE))


def dataset_of(body, url):
    """Returns a small CIFAR-10 whose archive is body, published at url."""
    archive = Archive(url, len(body), hashlib.sha256(body).hexdigest())
    counted = tuple((name, RECORDS) for name in FILES)
    return dataclasses.replace(CIFAR10, train_files=counted[:5], test_files=counted[5:], archive=archive)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.body in the first of server.modes; the last mode stays."""

    def do_GET(self):
        modes = self.server.modes
        mode = modes.pop(0) if len(modes) > 1 else modes[0]
        self.server.ranges.append(self.headers["Range"])
        getattr(self, mode)()

    def log_message(self, *args):
        pass

    def answer(self, status, body, sent=None, length=True, **headers):
        self.send_response(status)
        if length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.wfile.flush()

    def ok(self, **how):
        body, asked = self.server.body, self.headers["Range"]
        if not asked:
            return self.answer(200, body, **how)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(body):
            return self.answer(416, b"", Content_Range=f"bytes */{len(body)}")
        return self.answer(206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}", **how)

    def half(self, **how):
        self.ok(sent=len(self.server.body) // 2, **how)

    def half_without_length(self):
        self.half(length=False)

    def ok_without_length(self):
        self.ok(length=False)

    def no_ranges(self):
        self.answer(200, self.server.body)

    def other_range(self):
        self.answer(206, self.server.body[10:], Content_Range=f"bytes 10-{len(self.server.body) - 1}/*")

    def not_found(self):
        self.answer(404, b"not here")

    def forbidden(self):
        self.answer(403, b"not you")

    def busy(self):
        self.answer(503, b"not now")

    def page(self):
        self.answer(200, PAGE)

    def page_without_length(self):
        self.answer(200, PAGE, length=False)

    def flipped(self):
        body = bytearray(self.server.body)
        body[len(body) // 3] ^= 1
        self.answer(200, bytes(body))

    def stall(self):
        self.half()
        self.server.release.wait(30)

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.drip_bytes(self.server.body[:200])

    def drip_headers(self):
        self.drip_bytes(b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 200)

    def drip_a_chunks_length(self):
        self.drip_bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", at_once=True)
        self.drip_bytes(b"1;" + b"x" * 200)

    def drip_bytes(self, sent, at_once=False):
        with contextlib.suppress(OSError):  # of a client that has gone
            for byte in [sent] if at_once else (sent[i : i + 1] for i in range(len(sent))):
                self.wfile.write(byte)
                time.sleep(0.05)

    def late(self):
        """Begins late, and in two parts, of which the second comes after TIMEOUT."""
        for pause, sent in (
            (0.8, b"HTTP/1.1 200 OK\r\n"),
            (0.5, f"Content-Length: {len(self.server.body)}\r\n\r\n".encode()),
            (0.1, self.server.body),
        ):
            time.sleep(pause)
            self.wfile.write(sent)

    def gate(self):
        """Sends the second half only once the test says so."""
        body = self.server.body
        self.answer(200, body, sent=len(body) // 2)
        self.server.release.wait(30)
        self.wfile.write(body[len(body) // 2 :])

    def ctrl_c(self):
        """Interrupts the client, which is the main thread, once it has some of the archive."""
        self.half()
        wait_until(lambda: os.path.exists(self.server.part) and os.path.getsize(self.server.part))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        self.server.release.wait(30)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(data_dir):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.modes, server.ranges, server.release = WHOLE, ["ok"], [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/{TARBALL}"
    server.part = data_dir / f"{TARBALL}.part"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def small(server):
    return dataset_of(WHOLE, server.url)


@pytest.fixture
def closed_url():
    """A URL where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/{TARBALL}"


def tree(folder):
    """Returns {relative path: content} of every file below folder, and of links where they point."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


UNPACKED = {f"{FOLDER}/{name}": data for name, data in CONTENT.items()}
DONE = UNPACKED | {TARBALL: WHOLE, f".{FOLDER}.lock": b""}


def refused(*args, **kwargs):
    """Returns the message with which ensure refuses, which must be one line."""
    with pytest.raises(DataError) as caught:
        download.ensure(*args, **kwargs)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


# --- what is published ---


def test_cifar10_archive_is_the_published_one():
    # https://github.com/tensorflow/datasets/blob/master/tensorflow_datasets/url_checksums/cifar10.txt
    assert CIFAR10.archive.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert CIFAR10.archive.size == 170052171
    assert CIFAR10.archive.sha256 == "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    assert CIFAR10.archive.filename == TARBALL


# --- files that are there ---


def test_complete_files_need_neither_archive_nor_network(data_dir, closed_url, capsys):
    folder = data_dir / FOLDER
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"odd-sized, but the user's")
    before = tree(data_dir)
    download.ensure(dataset_of(WHOLE, closed_url), data_dir)
    assert tree(data_dir) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("archive_is_there", [True, False])
def test_only_missing_files_are_put_in_place(data_dir, server, small, archive_is_there):
    folder = data_dir / FOLDER
    folder.mkdir(parents=True)
    mine = {FILES[0]: b"odd", FILES[5]: b"", META: b"my own names\n", "notes.txt": b"mine"}
    for name, data in mine.items():
        (folder / name).write_bytes(data)
    if archive_is_there:
        (data_dir / TARBALL).write_bytes(WHOLE)
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE | {f"{FOLDER}/{name}": data for name, data in mine.items()}
    assert len(server.ranges) == (0 if archive_is_there else 1)


def test_broken_link_is_left_to_its_owner(data_dir, server, small):
    folder = data_dir / FOLDER
    folder.mkdir(parents=True)
    (folder / FILES[0]).symlink_to("unplugged-disk")
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE | {f"{FOLDER}/{FILES[0]}": "unplugged-disk"}
    (data_dir / TARBALL).unlink()
    download.ensure(small, data_dir)
    assert len(server.ranges) == 1


# --- archives placed by hand ---


def test_hand_placed_archive_needs_no_network(data_dir, closed_url):
    data_dir.mkdir()
    (data_dir / TARBALL).write_bytes(WHOLE)
    download.ensure(dataset_of(WHOLE, closed_url), data_dir)
    assert tree(data_dir) == DONE


@pytest.mark.parametrize(
    "body",
    [WHOLE[:-1], WHOLE[: len(WHOLE) // 2], b"", PAGE, WHOLE[:-1] + b"!"],
    ids=["short", "half", "empty", "page", "changed"],
)
def test_damaged_hand_placed_archive_is_refused_and_kept(data_dir, server, small, body):
    data_dir.mkdir()
    (data_dir / TARBALL).write_bytes(body)
    message = refused(small, data_dir)
    assert tree(data_dir) == {TARBALL: body, f".{FOLDER}.lock": b""}
    assert not (data_dir / FOLDER).exists()
    assert server.ranges == []
    for part in (data_dir / TARBALL, len(body), hashlib.sha256(body).hexdigest(), len(WHOLE), small.archive.sha256):
        assert str(part) in message
    assert "delete it" in message
    assert ("HTML page" in message) == (body == PAGE)


# --- downloads ---


@pytest.mark.parametrize("mode", ["ok", "ok_without_length", "no_ranges"])
def test_download(data_dir, server, small, mode):
    server.modes = [mode]
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE
    assert server.ranges == [None]


def test_folder_is_as_open_as_the_umask_says(data_dir, small):
    mask = os.umask(0o027)
    try:
        download.ensure(small, data_dir)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((data_dir / FOLDER).stat().st_mode) == 0o750
    assert stat.S_IMODE((data_dir / FOLDER / FILES[0]).stat().st_mode) == 0o640


def test_progress_in_a_log_is_a_line_every_tenth(data_dir, small, capsys, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1000)
    download.ensure(small, data_dir)
    out = capsys.readouterr().out
    assert re.fullmatch(r"(>> Downloading cifar-10-binary\.tar\.gz \d+\.\d%\n){11}", out)
    assert out.endswith(" 100.0%\n")


def test_progress_on_a_terminal_says_what_is_left(capsys, monkeypatch):
    """25 of 100 bytes were there; at 25 more in two seconds, the other 50 take four."""
    now = [100.0]
    rest = download.terminal.Rest
    monkeypatch.setattr(download.terminal, "Rest", lambda total: rest(total, lambda: now[0]))
    monkeypatch.setattr(download, "REDRAW", 1e-9)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with download._progress("/data/a.tar.gz", 100) as show:
        for done, secs in ((25, 100.0), (50, 102.0), (100, 106.0)):
            now[0] = secs
            show(done)
    first, second, last = capsys.readouterr().out.lstrip("\r").split("\r")
    assert first == ">> Downloading a.tar.gz 25.0%" and second == ">> Downloading a.tar.gz 50.0%, 4 s left"
    assert last == ">> Downloading a.tar.gz 100.0%".ljust(len(second)) + "\n"


def test_progress_on_a_terminal_is_one_line(data_dir, small, capsys, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1000)
    monkeypatch.setattr(download, "REDRAW", 1e6)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    download.ensure(small, data_dir)
    out = capsys.readouterr().out
    assert re.fullmatch(r"(\r>> Downloading cifar-10-binary\.tar\.gz \d+\.\d%){2,3}\n", out)
    assert out.endswith(" 100.0%\n")


@pytest.mark.parametrize("mode", ["half", "half_without_length", "stall"])
def test_lost_connection_is_resumed(data_dir, server, small, mode):
    server.modes = [mode, "ok"]
    began = time.monotonic()
    download.ensure(small, data_dir)
    assert time.monotonic() - began < 10
    assert tree(data_dir) == DONE
    first, second = server.ranges
    assert first is None
    assert 0 < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= len(WHOLE) // 2


def test_server_without_ranges_begins_again(data_dir, server, small):
    server.modes = ["half", "no_ranges"]
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE
    assert len(server.ranges) == 2


def test_answer_with_another_range_is_not_appended(data_dir, server, small):
    server.modes = ["half", "other_range", "ok"]
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE
    assert server.ranges[2] is None


def test_busy_server_is_asked_again(data_dir, server, small):
    server.modes = ["busy", "busy", "ok"]
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE


def test_attempts_are_bounded_and_back_off(data_dir, server, small, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.modes = ["busy"]
    assert "HTTP Error 503" in refused(small, data_dir)
    assert len(server.ranges) == download.ATTEMPTS == 5
    assert waits == [0.01, 0.02, 0.04, 0.08]


def test_server_that_always_hangs_up_is_given_up_and_its_bytes_are_kept(data_dir, server, small):
    server.modes = ["half", "busy"]
    refused(small, data_dir)
    assert server.part.read_bytes() == WHOLE[: len(WHOLE) // 2]
    assert not (data_dir / TARBALL).exists()


@pytest.mark.parametrize("mode", ["not_found", "forbidden"])
def test_refusal_by_the_server_is_final(data_dir, server, small, mode):
    server.modes = [mode]
    message = refused(small, data_dir)
    assert len(server.ranges) == 1
    assert tree(data_dir) == {f".{FOLDER}.lock": b""}
    archive = small.archive
    needed = (archive.url, archive.size, archive.sha256, TARBALL, data_dir, data_dir / FOLDER, *FILES)
    for part in ("HTTP Error 40", "--dataset=synthetic", *needed):
        assert str(part) in message


def test_no_network(data_dir, closed_url):
    message = refused(dataset_of(WHOLE, closed_url), data_dir)
    assert closed_url in message
    assert os.strerror(errno.ECONNREFUSED) in message


@pytest.mark.parametrize("url", ["no url", "gopher://x/y", "http://127.0.0.1:port/", "http://127.0.0.1/a b"])
def test_impossible_url_is_not_retried(data_dir, small, url, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("tried again"))
    if url.startswith("gopher"):
        monkeypatch.setattr(download, "ATTEMPTS", 1)  # urllib reports it like a network error
    assert url in refused(small, data_dir, url=url)


@pytest.mark.parametrize("mode", ["page", "page_without_length", "flipped"])
def test_wrong_file_is_described_and_removed(data_dir, server, small, mode):
    server.modes = [mode]
    message = refused(small, data_dir)
    assert len(server.ranges) == 1
    assert tree(data_dir) == {f".{FOLDER}.lock": b""}
    assert small.archive.sha256 in message
    assert ("HTML page" in message) == (mode != "flipped")
    if mode != "flipped":
        assert f"{len(PAGE)} bytes, sha256 {hashlib.sha256(PAGE).hexdigest()}" in message


@pytest.mark.parametrize(
    "left",
    [b"<html>" * 20, WHOLE[:1000] + b"!", b"x" * len(WHOLE), WHOLE + b"more"],
    ids=["page", "changed", "other", "long"],
)
def test_part_that_does_not_fit_is_begun_again_once(data_dir, server, small, left):
    data_dir.mkdir()
    server.part.write_bytes(left)
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE
    assert server.ranges[-1] is None
    assert len(server.ranges) <= 2


def test_part_that_does_not_fit_and_a_wrong_file_end(data_dir, server, small):
    data_dir.mkdir()
    server.part.write_bytes(WHOLE[:1000] + b"!")
    server.modes = ["ok", "flipped"]
    refused(small, data_dir)
    assert len(server.ranges) == 2
    assert not server.part.exists()


def test_complete_part_needs_no_network(data_dir, closed_url):
    data_dir.mkdir()
    (data_dir / f"{TARBALL}.part").write_bytes(WHOLE)
    download.ensure(dataset_of(WHOLE, closed_url), data_dir)
    assert tree(data_dir) == DONE


def test_complete_part_of_unknown_size_is_verified(data_dir, server, small):
    data_dir.mkdir()
    server.part.write_bytes(WHOLE)
    download.ensure(small, data_dir, sha256=small.archive.sha256)
    assert tree(data_dir) == DONE
    assert server.ranges == [f"bytes={len(WHOLE)}-"]


def test_mirror_must_deliver_the_published_archive(data_dir, server, closed_url):
    published = dataset_of(WHOLE, closed_url)
    server.modes = ["flipped"]
    assert server.url in refused(published, data_dir, url=server.url)
    server.modes = ["ok"]
    download.ensure(published, data_dir, url=server.url.replace(TARBALL, "mirror?id=7"))
    assert tree(data_dir) == DONE


def test_own_hash_replaces_published_size_and_hash(data_dir, server, small):
    server.body = tar_gz(*members_of(CONTENT), ("extra", b"x" * 5000))
    own = hashlib.sha256(server.body).hexdigest()
    assert own in refused(small, data_dir)
    download.ensure(small, data_dir, sha256=own.upper())
    assert tree(data_dir) == DONE | {TARBALL: server.body}


def test_ctrl_c_keeps_what_came_and_the_next_run_goes_on(data_dir, server, small):
    server.modes = ["ctrl_c", "ok"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            download.ensure(small, data_dir)
    finally:
        signal.signal(signal.SIGINT, before)
    kept = server.part.stat().st_size
    assert set(tree(data_dir)) == {server.part.name, f".{FOLDER}.lock"}
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE
    assert server.ranges == [None, f"bytes={kept}-"]


# --- archives that are not what they should be ---


def spoilt_stream():
    """Returns a .tar.gz with an impossible block in the middle of a file."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(gzip.decompress(WHOLE)[: len(WHOLE) // 2]) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 99


@pytest.mark.parametrize(
    "body",
    [
        b"",
        PAGE,
        WHOLE[: len(WHOLE) // 2],
        tar_gz(*members_of(CONTENT))[:-100],  # cut inside its last member
        gzip.compress(gzip.decompress(WHOLE)[: -len(WHOLE) // 2]),  # the same, packed after the cut
        spoilt_stream(),
    ],
    ids=["empty", "page", "half", "cut", "cut and packed", "spoilt"],
)
def test_archive_that_cannot_be_unpacked_leaves_nothing(data_dir, closed_url, body):
    data_dir.mkdir()
    (data_dir / TARBALL).write_bytes(body)
    assert str(data_dir) in refused(dataset_of(body, closed_url), data_dir)
    assert tree(data_dir) == {TARBALL: body, f".{FOLDER}.lock": b""}
    assert [path.name for path in data_dir.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"evil"),
        (f"{FOLDER}/../../evil", b"evil"),
        ("{outside}/evil", b"evil"),
        (f"/{FOLDER}/{FILES[0]}", b"evil"),
        (FILES[0], b"evil"),
        (f"{FOLDER}/{FILES[0]}/{FILES[0]}", b"evil"),
        (f"{FOLDER}/{FILES[0]}", (tarfile.SYMTYPE, "{outside}/secret")),
        (f"{FOLDER}/{FILES[0]}", (tarfile.LNKTYPE, f"{FOLDER}/{FILES[1]}")),
        (f"{FOLDER}/{FILES[0]}", (tarfile.CHRTYPE, "")),
        (f"{FOLDER}/{FILES[0]}", (tarfile.FIFOTYPE, "")),
        (f"{FOLDER}/{FILES[0]}", (tarfile.DIRTYPE, "")),
        (FOLDER, (tarfile.SYMTYPE, "{outside}")),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_evil_member_is_never_written(tmp_path, data_dir, closed_url, member, complete):
    (tmp_path / "secret").write_bytes(b"secret")
    name, content = member
    if not isinstance(content, bytes):
        content = (content[0], content[1].replace("{outside}", str(tmp_path)))
    rest = {key: value for key, value in CONTENT.items() if complete or key != FILES[0]}
    body = tar_gz((name.replace("{outside}", str(tmp_path)), content), *members_of(rest))
    data_dir.mkdir()
    (data_dir / TARBALL).write_bytes(body)
    expected = {TARBALL: body, f".{FOLDER}.lock": b""}
    if complete:
        download.ensure(dataset_of(body, closed_url), data_dir)
        expected |= UNPACKED
    else:
        message = refused(dataset_of(body, closed_url), data_dir)
        assert FILES[0] in message
        assert FILES[1] not in message
    assert tree(tmp_path) == {"secret": b"secret"} | {f"data/{path}": data for path, data in expected.items()}


# --- disks ---


@pytest.mark.parametrize("folder_is_there", [True, False])
@pytest.mark.parametrize("step", [(shutil, "copyfileobj"), (tarfile, "open"), (tarfile.TarFile, "extractfile")])
def test_full_disk_while_unpacking_leaves_nothing_half_done(data_dir, small, monkeypatch, step, folder_is_there):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data_dir.mkdir()
    (data_dir / TARBALL).write_bytes(WHOLE)
    if folder_is_there:
        (data_dir / FOLDER).mkdir()
        (data_dir / FOLDER / FILES[0]).write_bytes(b"mine")
    before = tree(data_dir) | {f".{FOLDER}.lock": b""}
    with monkeypatch.context() as patch:
        patch.setattr(*step, full)
        message = refused(small, data_dir)
    assert os.strerror(errno.ENOSPC) in message
    assert str(data_dir) in message
    assert tree(data_dir) == before
    assert [path.name for path in data_dir.iterdir() if path.is_dir()] == [FOLDER] * folder_is_there
    download.ensure(small, data_dir)
    assert set(tree(data_dir)) == set(DONE)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_full_disk_while_downloading_is_not_a_network_error(data_dir, server, small):
    data_dir.mkdir()
    server.part.symlink_to("/dev/full")
    message = refused(small, data_dir)
    assert os.strerror(errno.ENOSPC) in message
    assert str(data_dir) in message
    assert len(server.ranges) == 1


@pytest.mark.parametrize("blocked", ["", FOLDER])
def test_file_where_a_folder_belongs(data_dir, server, small, blocked):
    path = data_dir / blocked
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    assert f"{path} is not a folder" in refused(small, data_dir)
    assert path.read_bytes() == b"mine"
    assert server.ranges == []


def test_data_dir_below_a_file(tmp_path, small):
    (tmp_path / "file").write_bytes(b"")
    assert os.strerror(errno.ENOTDIR) in refused(small, tmp_path / "file" / "data")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_data_dir(data_dir, server, small):
    data_dir.mkdir(mode=0o500)
    message = refused(small, data_dir)
    assert str(data_dir) in message
    assert os.strerror(errno.EACCES) in message
    assert server.ranges == []


def test_data_dir_that_may_not_be_made(data_dir, small, monkeypatch):
    def denied(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "makedirs", denied)
    assert f"{data_dir}: {os.strerror(errno.EACCES)}" in refused(small, data_dir)


# --- several processes ---

CHILD = """
import dataclasses, sys, types
package = types.ModuleType("cifar10")  # its __init__ would spend seconds on TensorFlow
package.__path__ = [sys.argv[1]]
sys.modules["cifar10"] = package
from cifar10.data import datasets, download
archive = datasets.Archive(sys.argv[3], int(sys.argv[4]), sys.argv[5])
download.ensure(dataclasses.replace(datasets.CIFAR10, archive=archive), sys.argv[2])
"""


def child(dataset, data_dir):
    archive = dataset.archive
    values = [os.path.dirname(os.path.dirname(datasets.__file__)), data_dir, archive.url, archive.size, archive.sha256]
    return subprocess.Popen([sys.executable, "-c", CHILD, *map(str, values)], stdout=subprocess.PIPE, text=True)


needs_lock = pytest.mark.skipif(locks.fcntl is None, reason="needs flock")


@pytest.mark.slow
@needs_lock
def test_two_processes_download_once(data_dir, server, small):
    server.modes = ["gate"]
    with child(small, data_dir) as first:
        wait_until(lambda: server.ranges)
        with child(small, data_dir) as second:
            waiting = second.stdout.readline()
            assert waiting == f"Waiting for process {first.pid} on {socket.gethostname()} to fill {data_dir / FOLDER}\n"
            server.release.set()
            assert second.stdout.read() == ""
    assert (first.returncode, second.returncode) == (0, 0)
    assert server.ranges == [None]
    assert tree(data_dir) == DONE


def test_files_that_came_while_waiting_are_taken(data_dir, closed_url, monkeypatch):
    @contextlib.contextmanager
    def lock(*_):
        (data_dir / FOLDER).mkdir()
        for name in FILES:
            (data_dir / FOLDER / name).write_bytes(CONTENT[name])
        yield

    monkeypatch.setattr(locks, "held", lock)
    download.ensure(dataset_of(WHOLE, closed_url), data_dir)


@pytest.mark.slow
@needs_lock
def test_killed_process_holds_no_lock_and_its_bytes_are_used(data_dir, server, small):
    server.modes = ["stall", "ok"]
    with child(small, data_dir) as killed:
        wait_until(lambda: server.part.exists() and server.part.stat().st_size)
        killed.kill()
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE
    assert server.ranges[1].startswith("bytes=")


@needs_lock
@pytest.mark.parametrize("cause", ["no fcntl", "no locks"])
def test_platform_without_locks(data_dir, small, monkeypatch, cause):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if cause == "no fcntl":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE


# --- the data set that is drawn ---

TINY = dataclasses.replace(
    SYNTHETIC,
    train_files=tuple((name, 4) for name, _ in SYNTHETIC.train_files),
    test_files=tuple((name, 4) for name, _ in SYNTHETIC.test_files),
)


def test_synthetic_is_drawn_once(data_dir, capsys):
    download.ensure(TINY, data_dir)
    drawn = tree(data_dir / TINY.folder)
    assert {name: len(drawn[name]) for name in FILES} == dict.fromkeys(FILES, 4 * RECORD_BYTES)
    assert drawn.keys() == {*FILES, "batches.meta.txt"}
    assert capsys.readouterr().out == f"Drawing the synthetic data set in {data_dir / TINY.folder}\n"
    download.ensure(TINY, data_dir)
    assert capsys.readouterr().out == ""


def test_synthetic_replaces_only_what_is_missing(data_dir):
    download.ensure(TINY, data_dir)
    folder = data_dir / TINY.folder
    drawn = tree(folder)
    (folder / FILES[0]).write_bytes(b"mine")
    (folder / FILES[1]).unlink()
    download.ensure(TINY, data_dir)
    assert tree(folder) == drawn | {FILES[0]: b"mine"}


def test_interrupted_drawing_leaves_nothing(data_dir, monkeypatch):
    def interrupted(_, folder):
        with open(os.path.join(folder, FILES[0]), "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(download.synthetic, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.ensure(TINY, data_dir)
    assert list(data_dir.iterdir()) == [data_dir / f".{TINY.folder}.lock"]


# --- what strangers bring ---


@pytest.mark.parametrize("mode", ["drip", "drip_headers", "drip_a_chunks_length"])
def test_a_server_that_drips_is_given_up_and_its_bytes_are_kept(data_dir, server, small, monkeypatch, mode):
    """A byte now and then is no silence, so that no timeout of a connection ends it: of the body, or before it."""
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.modes = [mode]
    begun = time.monotonic()
    assert "less than 1000 bytes/s came in the last 0.5 s" in refused(small, data_dir)
    assert time.monotonic() - begun < 5  # all of it takes 10 s, and is there twice
    assert len(server.ranges) == 2
    if mode == "drip":
        kept = server.part.read_bytes()
        assert kept and WHOLE.startswith(kept)
    else:
        assert not server.part.exists() or server.part.read_bytes() == b""


def test_a_server_that_takes_its_time_before_it_answers_is_not_given_up(data_dir, server, small, monkeypatch):
    """The rate counts from the first byte on; before that there is the timeout of a connection."""
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    server.modes = ["late"]
    download.ensure(small, data_dir)
    assert tree(data_dir) == DONE and server.ranges == [None]


def test_the_least_rate_counts_from_the_first_byte(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(download.time, "monotonic", lambda: clock[0])
    watched = download._Watched(io.BytesIO(b"123"))
    for clock[0] in (0.9 * download.TIMEOUT, 1.8 * download.TIMEOUT):
        assert watched.readinto(bytearray(1)) == 1
    clock[0] = 2.0 * download.TIMEOUT
    with pytest.raises(TimeoutError, match=r"^less than 1000 bytes/s came in the last 0\.5 s$"):
        watched.readinto(bytearray(1))


def test_a_pipe_in_the_place_of_the_archive_is_told_at_once(data_dir, server, small):
    data_dir.mkdir()
    os.mkfifo(data_dir / TARBALL)
    assert refused(small, data_dir).endswith(f"{data_dir / TARBALL}: it is no regular file")
    assert server.ranges == []


def test_a_data_dir_one_folder_too_deep_is_told(data_dir, server, small):
    """Whether the record files are all there or not."""
    folder = data_dir / FOLDER
    folder.mkdir(parents=True)
    for names in ([], FILES[:2], FILES):
        for name in names:
            (folder / name).write_bytes(CONTENT[name])
        assert (
            refused(small, folder)
            == f"{folder}: holds the files themselves; --data_dir is the folder above, {data_dir}"
        )
        assert server.ranges == [] and sorted(path.name for path in folder.iterdir()) == sorted(names)


@needs_lock
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_lock_that_is_a_folder_or_a_pipe_is_told_at_once(data_dir, server, small, make):
    data_dir.mkdir()
    lock = data_dir / f".{FOLDER}.lock"
    make(lock)
    assert refused(small, data_dir).startswith(f"Cannot fill {data_dir / FOLDER}: {lock}: ")
    assert server.ranges == []
