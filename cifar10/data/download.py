"""Fetch, verify (D10), unpack: afterwards a data set's files are in its folder, whole or not at all.

What is already there is never replaced or deleted, whatever it holds; records.load says what is wrong with it.
"""

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib

from cifar10.data import svhn, synthetic
from cifar10.data.datasets import CLASS_NAMES_FILE, SPLITS
from cifar10.errors import DataError, counted, refuse_scheme
from cifar10.machine import files, locks, terminal

TIMEOUT = 30.0  # seconds without a byte after which a connection counts as lost
LEAST_RATE = 1000  # bytes/s over that time, headers included, below which it counts as lost, too
ATTEMPTS = 5  # requests before a download is given up
BACKOFF = 1.0  # seconds before the second request; each further wait is twice as long
CHUNK = 1 << 16  # bytes read at a time, so at most this much is lost with a connection
REDRAW = 0.25  # seconds between two states of the progress line on a terminal


class _FetchError(Exception):
    """A download that failed; retry says whether another request may help."""

    def __init__(self, message, retry=True):
        super().__init__(message)
        self.retry = retry


def ensure(dataset, data_dir, url=None, sha256=None):
    """Makes sure that the files of `dataset` are in `dataset.path(data_dir)`.

    Leaves them if all are there. Otherwise draws them (a data set without archive) or unpacks the archive or converts
    the MATLAB files, which it downloads unless they lie in data_dir, and puts the missing ones in place. Processes that
    share data_dir take turns.

    Args:
      dataset: a datasets.Dataset.
      data_dir: the folder that holds, or will hold, the archive and the data set's own folder.
      url: a mirror to download from in place of dataset.archive.url; of MATLAB files, the folder that they are in.
      sha256: what the archive must hash to, in hex, in place of the published size and hash; not of MATLAB files.

    Raises:
      DataError: the files cannot be had, or not be put in place. One line that says why and what to do.
    """
    refuse_scheme(data_dir, data_dir)
    folder = dataset.path(data_dir)
    if not _missing(dataset, folder):
        return
    parent, name = os.path.split(os.path.abspath(data_dir))
    if not _missing(dataset, data_dir) or (name == dataset.folder and os.path.isdir(data_dir)):
        raise DataError(f"{data_dir}: holds the files themselves; --data_dir is the folder above, {parent}")
    try:
        for path in (data_dir, folder):
            if os.path.lexists(path) and not os.path.isdir(path):
                raise DataError(f"{path} is not a folder: remove it, or choose another --data_dir")
        os.makedirs(data_dir, exist_ok=True)
        with locks.held(
            os.path.join(data_dir, f".{dataset.folder}.lock"),
            lambda holder: print(f"Waiting for {holder} to fill {folder}", flush=True),
        ):
            if _missing(dataset, folder):  # another process may have put them there meanwhile
                _fill(dataset, data_dir, url, sha256)
    except OSError as error:
        raise DataError(f"Cannot fill {folder}: {error.filename or data_dir}: {_reason(error)}") from error


def _missing(dataset, folder):
    """Returns the names of the record files that folder lacks; a broken link counts as the user's file."""
    names = [name for split in SPLITS for name, _ in dataset.files(split)]
    return [name for name in names if not os.path.lexists(os.path.join(folder, name))]


def _fill(dataset, data_dir, url, sha256):
    """Produces all files in a temporary folder, then moves those that are missing to where they belong."""
    folder = dataset.path(data_dir)
    archive = _archive(dataset, dataset.archive, data_dir, url, sha256) if dataset.archive else None
    mat_paths = _mat_files(dataset, data_dir, url, sha256) if dataset.mat_files else None
    with tempfile.TemporaryDirectory(prefix=f".{dataset.folder}.", dir=data_dir) as temp:
        staged = os.path.join(temp, dataset.folder)
        os.mkdir(staged)  # as open as the umask says, whereas temp is closed to other users
        if archive:
            _unpack(dataset, archive, staged)
        elif mat_paths:
            print(f"Converting the {dataset.name} data set to {folder}", flush=True)
            svhn.write(dataset, mat_paths, staged)
        else:
            print(f"Drawing the {dataset.name} data set in {folder}", flush=True)
            synthetic.write(dataset, staged)
        if not os.path.lexists(folder):
            os.rename(staged, folder)
            return
        for name in os.listdir(staged):
            if not os.path.lexists(os.path.join(folder, name)):
                os.replace(os.path.join(staged, name), os.path.join(folder, name))


def _unpack(dataset, path, staged):
    """Writes the data set's files from the archive at path to the folder `staged`; ignores whatever else it holds."""
    names = [*_missing(dataset, staged), CLASS_NAMES_FILE]
    wanted = {f"{dataset.folder}/{name}": os.path.join(staged, name) for name in names}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.isreg() and member.name in wanted:
                    with tar.extractfile(member) as source, open(wanted[member.name], "wb") as target:
                        shutil.copyfileobj(source, target)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked: {_reason(error)}; another archive is needed") from error
    if lacking := _missing(dataset, staged):
        raise DataError(f"{path} lacks {', '.join(lacking)} in its folder {dataset.folder}; another archive is needed")


def _mat_files(dataset, data_dir, url, sha256):
    """Returns the paths of the verified MATLAB files, downloaded unless they are there already."""
    svhn.require_scipy()  # before the download, not after it
    if sha256:
        raise DataError(f"{dataset.name} comes in {len(dataset.mat_files)} files, which one sha256 cannot verify")
    urls = [f"{url.rstrip('/')}/{file.filename}" if url else None for file in dataset.mat_files]
    return [_archive(dataset, file, data_dir, url, None) for file, url in zip(dataset.mat_files, urls, strict=True)]


def _archive(dataset, archive, data_dir, url, sha256):
    """Returns the path of a verified archive of the data set, downloaded unless it is there already."""
    path = os.path.join(data_dir, archive.filename)
    url = url or archive.url
    size = None if sha256 else archive.size
    sha256 = (sha256 or archive.sha256).lower()
    if os.path.lexists(path):
        if fault := _fault(path, size, sha256):
            raise DataError(f"{path} has {fault}; delete it and run again to have it downloaded anew")
        return path
    try:
        _download(url, f"{path}.part", size, sha256)
    except _FetchError as error:
        folder = dataset.path(data_dir)
        raise DataError(
            f"Cannot download {url}: {error}. By hand: put {archive.filename} ({_stamp(size, sha256)}) into {data_dir} "
            f"or {', '.join(_missing(dataset, folder))} into {folder}. From a mirror: "
            "--data_url. Without any download: --dataset=synthetic"
        ) from error
    os.replace(f"{path}.part", path)
    return path


def _stamp(size, sha256):
    return f"sha256 {sha256}" if size is None else f"{counted(size, 'byte')}, sha256 {sha256}"


def _fault(path, size, sha256):
    """Returns what the file at path has and what it should have, or None if they are the same."""
    digest = hashlib.sha256()
    with open(path, "rb", opener=files.regular) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found = os.path.getsize(path)
    if size in (None, found) and digest.hexdigest() == sha256:
        return None
    page = " (an HTML page by its looks)" if _is_page(path) else ""
    return f"{_stamp(found, digest.hexdigest())}{page}, expected {_stamp(size, sha256)}"


def _is_page(path):
    with open(path, "rb") as file:
        return file.read(CHUNK).lstrip().startswith(b"<")


def _download(url, part, size, sha256):
    """Brings url to the file `part`, going on from what it holds, and verifies it.

    Raises:
      _FetchError: it did not come, and `part` keeps what did; or it came and is wrong, and `part` is removed.
    """
    while True:
        resumed = os.path.exists(part)
        _receive(url, part, size)
        fault = _fault(part, size, sha256)
        if not fault:
            return
        os.remove(part)
        if not resumed:
            raise _FetchError(f"got {fault}")
        print(f"{part} has {fault}; beginning again", flush=True)  # what it began with may have come from elsewhere


def _receive(url, part, size):
    """Requests what `part` lacks until everything promised is there."""
    for wait in [BACKOFF * 2**i for i in range(ATTEMPTS - 1)] + [None]:
        try:
            _request(url, part, size)
            return
        except _FetchError as error:
            if not error.retry or wait is None:
                raise
            print(f"{url}: {error}; trying again in {wait:g} s", flush=True)
            time.sleep(wait)


class _Watched(io.RawIOBase):
    """The bytes of a connection, of which LEAST_RATE must come.

    A byte now and then is no silence, so that no timeout of a connection ends it; and it may be one of a header or of
    the length of a chunk, which urllib reads to the end before it returns.
    """

    def __init__(self, raw):
        super().__init__()
        self._raw = raw
        self._since = None  # when the first byte came, or the last look was taken
        self._count = 0  # bytes since then

    def readable(self):
        return True

    def readinto(self, buffer):
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        self._count += count
        if self._since is None:
            self._since = now
        elif now - self._since > TIMEOUT:
            if self._count < LEAST_RATE * TIMEOUT:
                raise TimeoutError(f"less than {LEAST_RATE} bytes/s came in the last {TIMEOUT:g} s")
            self._since, self._count = now, 0
        return count

    def close(self):
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that is _Watched, of a proxy, too."""

    def __init__(self, sock, debuglevel=0, method=None, url=None):
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_Watched(self.fp.detach()))


class _HTTPConnection(http.client.HTTPConnection):
    response_class = _Response


class _HTTPSConnection(http.client.HTTPSConnection):
    response_class = _Response


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_HTTPConnection, request)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_HTTPSConnection, request)


def _opener():
    return urllib.request.build_opener(_HTTPHandler, _HTTPSHandler)


def _request(url, part, size):
    """Makes one request for what `part` lacks and appends what comes."""
    start = os.path.getsize(part) if os.path.exists(part) else 0
    if start == size:  # an earlier run ended between the last byte and the verification
        return
    with _network():
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            response = _opener().open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:  # nothing follows what `part` holds; its hash tells whether that is right
                return
            raise
        length = response.headers["Content-Length"]
        promised = int(length) if length else None
    with response:
        content_range = response.headers["Content-Range"]
        if response.status != 206:  # all of it comes, not the rest
            start = 0
        elif not (content_range or "").startswith(f"bytes {start}-"):
            os.truncate(part, 0)
            raise _FetchError(f"asked for the bytes from {start}, got {content_range}")
        total = size if promised is None else start + promised
        done = start
        with open(part, "ab" if start else "wb") as file, _progress(part.removesuffix(".part"), total) as show:
            show(done)
            while True:
                with _network():
                    chunk = response.read1(CHUNK)  # what there is, where `read` would wait for all of it
                if not chunk:
                    break
                file.write(chunk)
                done += len(chunk)
                show(done)
    if total is not None and done < total and not (promised is None and _is_page(part)):
        raise _FetchError(f"the connection ended after {done} of {counted(total, 'byte')}")


@contextlib.contextmanager
def _network():
    """Turns what goes wrong on the way into _FetchError: any other OSError is then the disk's, where no retry helps."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _FetchError(str(error), retry=error.code >= 500) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise _FetchError(str(error), retry=False) from error
    except (OSError, http.client.HTTPException) as error:
        raise _FetchError(_reason(error)) from error


def _reason(error):
    """Returns the gist of an exception on one line."""
    cause = getattr(error, "reason", None) or error  # a URLError wraps the socket's own error
    return " ".join((getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).split())


@contextlib.contextmanager
def _progress(path, total):
    """Yields a function that shows how many bytes are there: in one line on a terminal, else in a line every tenth."""
    on_terminal = sys.stdout.isatty()
    rest = terminal.Rest(total)
    shown, width = None, 0

    def show(done):
        nonlocal shown, width
        state = int(time.monotonic() / REDRAW) if on_terminal else 10 * done // (total or 100_000_000)
        if state == shown and not (on_terminal and done == total):
            return
        shown = state
        amount = f"{100 * done / total:.1f}%" if total else f"{done / 1e6:.1f} MB"
        line = f">> Downloading {os.path.basename(path)} {amount}"
        if on_terminal and total and done < total:
            line += rest.text(done)
        print(f"\r{line:{width}}" if on_terminal else line, end="" if on_terminal else "\n", flush=True)
        width = len(line)

    try:
        yield show
    finally:
        if on_terminal:
            print(flush=True)
