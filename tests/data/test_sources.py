"""Finding, fetching and verifying raw files, against a real server on the loopback whose faults can be switched on."""

import gzip
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import numpy as np
import pytest

from visionbench.data import sources
from visionbench.data.sources import Origin, RawFile, fetch
from visionbench.errors import UserError

pytestmark = pytest.mark.fast

IMAGES = np.random.default_rng(0).bytes(300_000)  # noise, so that it stays as long compressed as it is
LABELS = b"labels " * 100
CONTENTS = {"images": IMAGES, "labels": LABELS}


def raw_file(name: str, content: bytes) -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content))


FILES = (raw_file("images.gz", IMAGES), raw_file("labels.gz", LABELS))
PACKED = {"images.gz": gzip.compress(IMAGES), "labels.gz": gzip.compress(LABELS)}


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `files`, and logs (path, Range header) for each request.

    `break_after`: bytes of the body after which the connection of the next requests breaks, one entry a request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(PACKED)
        self.log: list[tuple[str, str | None]] = []
        self.break_after: list[int] = []
        self.ranges = True
        self.says_length = True
        self.wrong_range = False
        self.hung_up_on = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror, asked = self.server, self.headers.get("Range")
        mirror.log.append((self.path, asked))
        body = mirror.files.get(self.path[1:])
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mirror.ranges else 0
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            begin = start + 1 if mirror.wrong_range else start
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if mirror.says_length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + mirror.break_after.pop(0) if mirror.break_after else len(body)
        try:
            self.wfile.write(body[start:end])
        except ConnectionError:
            mirror.hung_up_on.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sources, "PAUSE", 0)


@pytest.fixture
def new_mirror() -> Iterator[Callable[[], Mirror]]:
    mirrors: list[Mirror] = []

    def new() -> Mirror:
        mirrors.append(Mirror())
        return mirrors[-1]

    yield new
    for mirror in mirrors:
        mirror.shutdown()
        mirror.server_close()


@pytest.fixture
def mirror(new_mirror: Callable[[], Mirror]) -> Mirror:
    return new_mirror()


def get(downloads: Path, *mirrors: str, files: tuple[RawFile, ...] = FILES) -> tuple[dict[str, bytes], str]:
    return fetch(Origin(files, mirrors), dataset="Noise", source=None, downloads=downloads, say=lambda line: None)


def get_source(source: Path) -> tuple[dict[str, bytes], str]:
    # No mirror answers there, and a fall-through to one would give another message.
    return fetch(Origin(FILES, ("http://127.0.0.1:9/",)), dataset="Noise", source=source, downloads=source / "no")


def fill(folder: Path, *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (PACKED if packed else CONTENTS).items():
        (folder / name).write_bytes(content)
    return folder


# Downloading


def test_download_says_gives_and_keeps_the_files(tmp_path: Path, mirror: Mirror) -> None:
    said: list[str] = []
    downloads = tmp_path / "new" / "downloads"
    contents, origin = fetch(
        Origin(FILES, (mirror.url(),)), dataset="Noise", source=None, downloads=downloads, say=said.append
    )
    assert contents == CONTENTS
    assert origin == "downloaded from 127.0.0.1"
    assert said == ["fetching images.gz (300 kB) from 127.0.0.1", "fetching labels.gz (0 kB) from 127.0.0.1"]
    assert {path.name: path.read_bytes() for path in downloads.iterdir()} == PACKED


def test_downloaded_files_are_not_fetched_again(tmp_path: Path, mirror: Mirror) -> None:
    get(tmp_path, mirror.url())
    asked = len(mirror.log)
    contents, origin = get(tmp_path, mirror.url())
    assert contents == CONTENTS
    assert origin == f"the folder {tmp_path}"
    assert len(mirror.log) == asked


def test_only_the_damaged_download_is_fetched_again(tmp_path: Path, mirror: Mirror) -> None:
    fill(tmp_path)
    (tmp_path / "labels.gz").write_bytes(b"damaged")
    assert get(tmp_path, mirror.url())[0] == CONTENTS
    assert mirror.log == [("/labels.gz", None)]
    assert (tmp_path / "labels.gz").read_bytes() == PACKED["labels.gz"]


def test_damaged_download_is_removed_where_no_mirror_has_the_file(tmp_path: Path, mirror: Mirror) -> None:
    fill(tmp_path)
    (tmp_path / "labels.gz").write_bytes(b"damaged")
    mirror.files = {}
    with pytest.raises(UserError, match="HTTP 404"):
        get(tmp_path, mirror.url())
    assert [path.name for path in tmp_path.iterdir()] == ["images.gz"]


def test_broken_connection_is_resumed_where_it_broke(tmp_path: Path, mirror: Mirror) -> None:
    mirror.break_after = [100_000, 50_000]
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log == [("/images.gz", None), ("/images.gz", "bytes=100000-"), ("/images.gz", "bytes=150000-")]


def test_next_run_resumes_what_the_last_one_left(tmp_path: Path, mirror: Mirror) -> None:
    mirror.break_after = [10_000] * sources.ATTEMPTS
    with pytest.raises(UserError, match="the connection broke"):
        get(tmp_path, mirror.url(), files=FILES[:1])
    assert len(mirror.log) == sources.ATTEMPTS
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log[sources.ATTEMPTS :] == [("/images.gz", f"bytes={10_000 * sources.ATTEMPTS}-")]


def test_connection_that_brings_nothing_is_not_tried_again(tmp_path: Path, new_mirror: Callable[[], Mirror]) -> None:
    dead, good = new_mirror(), new_mirror()
    dead.break_after = [0]
    assert get(tmp_path, dead.url(), good.url())[0] == CONTENTS
    assert dead.log == [("/images.gz", None)]


def test_mirror_out_of_reach_is_asked_once(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    urlopen = sources.urlopen

    def connect(request: Request, timeout: float) -> object:
        asked.append(request.full_url)
        if "unreachable" in request.full_url:
            raise URLError(TimeoutError("timed out"))
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr(sources, "urlopen", connect)
    assert get(tmp_path, "http://unreachable.invalid/", mirror.url())[0] == CONTENTS
    assert asked == ["http://unreachable.invalid/images.gz", f"{mirror.url()}images.gz", f"{mirror.url()}labels.gz"]


def test_server_that_ignores_ranges_starts_the_file_from_zero(tmp_path: Path, mirror: Mirror) -> None:
    mirror.ranges = False
    mirror.break_after = [100_000]
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log == [("/images.gz", None), ("/images.gz", "bytes=100000-")]


def test_server_that_answers_another_range_starts_the_file_from_zero(tmp_path: Path, mirror: Mirror) -> None:
    mirror.wrong_range = True
    mirror.break_after = [100_000]
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log == [("/images.gz", None), ("/images.gz", "bytes=100000-"), ("/images.gz", None)]


def test_stale_part_of_something_else_is_replaced(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(b"something else")
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log == [("/images.gz", "bytes=14-"), ("/images.gz", None)]


def test_part_longer_than_the_file_is_replaced(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(bytes(400_000))
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log == [("/images.gz", "bytes=400000-"), ("/images.gz", None)]


def test_part_that_is_whole_is_used(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "images.gz.part").write_bytes(PACKED["images.gz"])
    assert get(tmp_path, mirror.url(), files=FILES[:1])[0] == {"images": IMAGES}
    assert mirror.log == [("/images.gz", f"bytes={len(PACKED['images.gz'])}-")]


def test_part_of_one_mirror_is_completed_by_another(tmp_path: Path, new_mirror: Callable[[], Mirror]) -> None:
    first, second = new_mirror(), new_mirror()
    first.break_after = [20_000] + [0] * sources.ATTEMPTS
    assert get(tmp_path, first.url(), second.url())[0] == CONTENTS
    assert second.log == [("/images.gz", "bytes=20000-"), ("/labels.gz", None)]


def test_mirrors_complete_each_other(tmp_path: Path, new_mirror: Callable[[], Mirror]) -> None:
    first, second = new_mirror(), new_mirror()
    del first.files["labels.gz"]
    contents, origin = get(tmp_path, first.url("127.0.0.1"), second.url("localhost"))
    assert contents == CONTENTS
    assert origin == "downloaded from 127.0.0.1 and localhost"
    assert second.log == [("/labels.gz", None)]


LARGER = gzip.compress(IMAGES + b"x")
DAMAGED = {
    "other content": gzip.compress(IMAGES[::-1]),
    "not a gzip": b"<html>Please log in to the hotel's network</html>",
    "a flipped bit": bytes([*LARGER[:1000], LARGER[1000] ^ 1, *LARGER[1001:]]),
    "no valid deflate": PACKED["images.gz"][:10] + b"\xff" * 1000,
    "truncated": PACKED["images.gz"][:-100],
    "a byte too many": LARGER,
    "empty": b"",
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_mirror_gives_way_to_the_next(tmp_path: Path, new_mirror: Callable[[], Mirror], damaged: bytes) -> None:
    bad, good = new_mirror(), new_mirror()
    bad.files["images.gz"] = damaged
    with pytest.raises(UserError, match=r"127\.0\.0\.1: images.gz is damaged"):
        get(tmp_path, bad.url())
    assert list(tmp_path.iterdir()) == []
    contents, origin = get(tmp_path, bad.url("127.0.0.1"), good.url("localhost"))
    assert contents == CONTENTS
    assert origin == "downloaded from localhost"


def test_body_cut_short_without_a_length_is_damaged(tmp_path: Path, mirror: Mirror) -> None:
    mirror.says_length = False
    mirror.break_after = [1000]
    with pytest.raises(UserError, match=r"images\.gz is damaged"):
        get(tmp_path, mirror.url())


def test_body_without_end_is_hung_up_on(tmp_path: Path, mirror: Mirror) -> None:
    mirror.files["labels.gz"] = bytes(64 * 2**20)
    with pytest.raises(UserError, match=r"labels\.gz is damaged"):
        get(tmp_path, mirror.url(), files=FILES[1:])
    assert mirror.hung_up_on.wait(5)


def test_folder_that_cannot_be_written_is_not_taken_for_a_bad_mirror(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "downloads").write_text("a file where a folder should be")
    with pytest.raises(FileExistsError):
        get(tmp_path / "downloads", mirror.url())
    assert mirror.log == []


# What is given or found on the machine


@pytest.mark.parametrize("packed", [True, False])
def test_source_gives_its_files(tmp_path: Path, packed: bool) -> None:
    source = fill(tmp_path / "mine", packed=packed)
    assert get_source(source) == (CONTENTS, f"the folder {source}")
    assert len(list(source.iterdir())) == len(FILES)  # it is only read


def test_source_without_a_file_is_an_error(tmp_path: Path) -> None:
    (fill(tmp_path) / "labels.gz").unlink()
    with pytest.raises(UserError, match=f"Noise cannot be read from the folder {tmp_path}: .*neither labels.gz nor la"):
        get_source(tmp_path)


def test_source_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"folder {tmp_path / 'none'}: there is no such folder"):
        get_source(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.gz", b"damaged"),
        ("labels.gz", PACKED["labels.gz"][:-3]),
        ("labels.gz", gzip.compress(LABELS.upper())),
        ("labels", LABELS.upper()),
        ("labels", LABELS + b"x"),
        ("labels", b""),
    ],
    ids=["no gzip", "truncated gzip", "other content", "other content, plain", "too long, plain", "empty, plain"],
)
def test_source_with_a_damaged_file_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (fill(tmp_path) / "labels.gz").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        get_source(tmp_path)
    message = str(caught.value)
    assert f"from the folder {tmp_path}: labels.gz is damaged" in message
    assert f"{len(LABELS)} bytes of sha256 {FILES[1].sha256}" in message


def test_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    fill(tmp_path)
    with gzip.open(tmp_path / "labels.gz", "wb") as bomb:
        for _ in range(100):
            bomb.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"labels\.gz is damaged"):
            get_source(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


def test_system_folder_comes_before_the_mirrors(tmp_path: Path, mirror: Mirror) -> None:
    system = fill(tmp_path / "system")
    origin = Origin(FILES, (mirror.url(),), system)
    assert fetch(origin, dataset="Noise", source=None, downloads=tmp_path / "d") == (CONTENTS, f"the folder {system}")
    assert mirror.log == []
    (system / "images.gz").write_bytes(b"damaged")
    assert fetch(origin, dataset="Noise", source=None, downloads=tmp_path / "d")[1] == "downloaded from 127.0.0.1"


def test_offline_opens_no_socket_and_runs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *args, **kwargs: touched.append(args))
    monkeypatch.setattr(sources, "urlopen", lambda *args, **kwargs: touched.append(args))
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: touched.append(args))
    origin = Origin(FILES, ("http://127.0.0.1:9/",), tmp_path / "system", "dataset-noise")
    with pytest.raises(UserError, match=r"the network: not used, because offline is on.*run once without offline"):
        fetch(origin, dataset="Noise", source=None, downloads=tmp_path / "downloads", offline=True)
    assert not (tmp_path / "downloads").exists()
    fill(tmp_path / "downloads")
    contents, _ = fetch(origin, dataset="Noise", source=None, downloads=tmp_path / "downloads", offline=True)
    assert contents == CONTENTS
    assert touched == []


def test_error_names_everything_that_was_tried(
    tmp_path: Path, new_mirror: Callable[[], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    empty, damaged = new_mirror(), new_mirror()
    empty.files = {}
    damaged.files["images.gz"] = b"damaged"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    said: list[str] = []
    origin = Origin(
        FILES, (empty.url("127.0.0.1"), damaged.url("localhost"), refusing), tmp_path / "system", "dataset-noise"
    )
    with pytest.raises(UserError) as caught:
        fetch(origin, dataset="Noise", source=None, downloads=tmp_path / "downloads", say=said.append)
    message = str(caught.value)
    for part in (
        "Noise is not on this machine",
        f"{tmp_path / 'system'}: there is no such folder",
        "127.0.0.1: images.gz: HTTP 404",
        "localhost: images.gz is damaged",
        "127.0.0.1: images.gz: Connection refused",
        "the package dataset-noise: no apt-get on this machine",
        "connect to the internet",
        "`sudo apt install dataset-noise`",
        "the folder that holds images.gz, labels.gz with --data.source",
    ):
        assert part in message
    assert "\n" not in message
    assert said[0] == "127.0.0.1 failed: images.gz: HTTP 404"


# The Debian package

APT_GET = """#!/bin/sh
echo "$@" >> "{log}"
while [ "$1" != update ] && [ "$1" != download ]; do [ "$1" = -c ] && cp "$2" "{log}.conf"; shift; done
{script}
"""


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts an apt-get of the given script, and a folder for temporary files, in the real ones' place."""

    def put(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        log = tmp_path / "apt.log"
        (folder / "apt-get").write_text(APT_GET.format(log=log, script=script))
        (folder / "apt-get").chmod(0o755)
        if not shutil.which("dpkg-deb"):
            (folder / "dpkg-deb").write_text("#!/bin/sh\nexit 1\n")
            (folder / "dpkg-deb").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        return log

    return put


@pytest.fixture
def package(tmp_path: Path) -> Path:
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg-deb to build a package")
    tree = tmp_path / "tree"
    fill(tree / "usr/share/datasets/noise")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: dataset-noise\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
        "Description: noise\n"
    )
    archive = tmp_path / "dataset-noise_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, archive], check=True, capture_output=True)
    return archive


def get_package(tmp_path: Path, folder: str = "/usr/share/datasets/noise") -> tuple[dict[str, bytes], str]:
    origin = Origin(FILES, (), Path(folder), "dataset-noise")
    return fetch(origin, dataset="Noise", source=None, downloads=tmp_path / "downloads", say=lambda line: None)


def test_package_is_unpacked_beside_the_system(tmp_path: Path, package: Path, fake_apt: Callable[[str], Path]) -> None:
    log = fake_apt(f'[ "$1" = update ] || cp "{package}" .')
    assert get_package(tmp_path) == (CONTENTS, "the package dataset-noise")
    assert list((tmp_path / "temporary").iterdir()) == []
    update, download = log.read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(" download dataset-noise")
    configuration = log.with_suffix(".log.conf").read_text()
    for setting in ("Dir::State", "Dir::State::status", "Dir::Cache"):
        assert f'{setting} "{tmp_path / "temporary"}/' in configuration
    assert "Dir::Etc" not in configuration


def test_package_is_had_though_one_of_the_sources_failed(
    tmp_path: Path, package: Path, fake_apt: Callable[[str], Path]
) -> None:
    fake_apt(f'[ "$1" = update ] && exit 100 || cp "{package}" .')
    assert get_package(tmp_path)[0] == CONTENTS


def test_package_without_the_files_is_told(tmp_path: Path, package: Path, fake_apt: Callable[[str], Path]) -> None:
    fake_apt(f'[ "$1" = update ] || cp "{package}" .')
    with pytest.raises(UserError, match="the package dataset-noise: there is no such folder"):
        get_package(tmp_path, "/usr/share/datasets/elsewhere")


def test_failing_apt_get_is_told_with_its_reasons(tmp_path: Path, fake_apt: Callable[[str], Path]) -> None:
    fake_apt(
        'if [ "$1" = update ]; then printf "W: old\\nE: No route\\nE: Some failed\\n" >&2; exit 100; fi\n'
        'printf "first\\nno such package\\n\\n" >&2; exit 1'
    )
    with pytest.raises(UserError, match=r"package dataset-noise: no such package \(apt-get update: E: No route\)"):
        get_package(tmp_path)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_apt_get_that_hangs_is_given_up(
    tmp_path: Path, fake_apt: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt("exec sleep 30")
    monkeypatch.setattr(sources, "COMMAND_TIMEOUT", 0.2)
    with pytest.raises(UserError, match="the package dataset-noise: apt-get took longer than"):
        get_package(tmp_path)


# Archives


def test_an_archive_is_verified_resumed_and_given_as_it_is_served(tmp_path: Path, mirror: Mirror) -> None:
    archive = PACKED["images.gz"]
    file = RawFile("images.gz", hashlib.sha256(archive).hexdigest(), len(archive), is_archive=True)
    mirror.break_after = [100_000]
    contents, _ = get(tmp_path, mirror.url(), files=(file,))
    assert contents == {"images.gz": archive}
    assert [asked for _, asked in mirror.log] == [None, "bytes=100000-"]


def test_an_archive_that_was_packed_otherwise_is_another(tmp_path: Path, mirror: Mirror) -> None:
    archive = gzip.compress(IMAGES, 1)
    assert archive != PACKED["images.gz"]
    file = RawFile("images.gz", hashlib.sha256(archive).hexdigest(), len(archive), is_archive=True)
    with pytest.raises(UserError, match=r"images\.gz is damaged"):
        get(tmp_path, mirror.url(), files=(file,))
