"""Raw files of a data set: finding, downloading and verifying them.

The downloader does not use pooch, for two reasons: pooch restarts an interrupted download from the beginning, and it
checks the sha256 of the compressed file, which differs between mirrors that compressed the same content differently.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from visionbench.errors import UserError
from visionbench.files import replacing

ATTEMPTS = 5  # connections for one file, once the first bytes have arrived
SMALL_FILE = 2**20  # bytes of a file that is read to see whether it is the one of the data set
PAUSE = 1.0  # seconds before the next connection
CONNECTION_TIMEOUT = 10.0  # seconds; short, since some networks drop packets without an answer
COMMAND_TIMEOUT = 300.0  # seconds; long, for slow connections: without a connection, apt itself fails earlier

# apt uses the machine's own sources and credentials, but writes to a private folder. The hooks are cleared because they
# would change the system's folders. The sandbox user is root because `_apt` could not enter the private folder.
# `Error-Mode` turns warnings, such as a missing network, into errors that can be reported.
APT_CONFIGURATION = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Debug::NoLocking "1";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""


@dataclass(frozen=True)
class RawFile:
    """A raw file of a data set.

    Attributes:
        name: File name on the mirrors, e.g. `train-images-idx3-ubyte.gz`.
        sha256: Sha256 of the decompressed content, which is the same on every mirror; of the file if `is_archive`.
        size: Size of the decompressed content in bytes; of the file if `is_archive`.
        is_archive: Whether the file is an archive that is identical on every mirror and is not decompressed here.
    """

    name: str
    sha256: str
    size: int
    is_archive: bool = False

    @property
    def plain_name(self) -> str:
        """Name of the decompressed file."""
        return self.name if self.is_archive else self.name.removesuffix(".gz")

    def is_compressed(self, name: str) -> bool:
        """Whether a file of this name holds the content in compressed form."""
        return name.endswith(".gz") and not self.is_archive


@dataclass(frozen=True)
class Origin:
    """Places that provide the files of a data set.

    Attributes:
        files: Files of the data set.
        mirrors: URL prefixes that end in `/`; a prefix followed by a file name is the URL of the file.
        system_folder: Folder of a system-wide installation.
        debian_package: Name of the Debian and Ubuntu package that contains `system_folder`.
    """

    files: tuple[RawFile, ...]
    mirrors: tuple[str, ...]
    system_folder: Path | None = None
    debian_package: str | None = None


class _Failed(Exception):
    """A place that does not provide the files; the message is a short reason."""


def fetch(
    origin: Origin,
    *,
    dataset: str,
    source: Path | None,
    downloads: Path,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, bytes], str]:
    """Gets the verified, decompressed content of every file from the first place that provides it.

    If `source` is given, it is the only place. Otherwise the places are, in this order: the system's folder; earlier
    downloads; the mirrors; the Debian package, unpacked into a temporary folder without root and without installation.

    Args:
        origin: Files of the data set and the places that provide them.
        dataset: Name of the data set, for messages.
        source: Folder with every file, compressed or decompressed; read only.
        downloads: Folder for complete and partial downloads; created if a mirror is used.
        offline: Whether the mirrors and the package are not used.
        say: Function that prints one line, called for each file that is fetched and each place that fails.

    Returns:
        The contents, by name without `.gz`, and a phrase that names the place they came from.

    Raises:
        UserError: A file in `source` is missing or damaged; or no place provides all files, with the reason for each.
        OSError: `downloads` cannot be written.
    """
    if source is not None:
        try:
            return _read_folder(source, origin.files), f"the folder {source}"
        except _Failed as failure:
            raise UserError(
                f"{dataset} cannot be read from the folder {source}: {failure}; correct it, or remove --data.source so "
                "that the files are fetched."
            ) from failure
    tried: list[str] = []
    for folder in (origin.system_folder, downloads):
        if folder is not None:
            try:
                return _read_folder(folder, origin.files), f"the folder {folder}"
            except _Failed as failure:
                tried.append(f"{folder}: {failure}")
    if offline:
        tried.append("the network: not used, because offline is on")
    else:
        fetched = _from_mirrors(origin, downloads, say, tried) or _from_package(origin, say, tried)
        if fetched:
            return fetched
    advice = ["run once without offline" if offline else "connect to the internet"]
    if origin.debian_package:
        advice.append(f"install the package with `sudo apt install {origin.debian_package}`")
    names = ", ".join(file.name for file in origin.files)
    raise UserError(
        f"{dataset} is not on this machine and could not be fetched (tried {'; '.join(tried)}); {', '.join(advice)}, "
        f"or give the folder that holds {names} with --data.source."
    )


def check_source(origin: Origin, *, dataset: str, source: Path | None) -> None:
    """Refuses a folder with other files than those of a data set that is prepared already, and would be used instead.

    Small files, such as those of labels, are read; of larger ones that are not compressed, the size is looked at. A
    folder or a file that is not there is no error, since a prepared data set needs none.

    Args:
        origin: Files of the data set.
        dataset: Name of the data set, for messages.
        source: Folder that the user gave; `None` if there is none.

    Raises:
        UserError: A file in `source` is another one.
    """
    if source is None:
        return
    for file in origin.files:
        name = file.name if (source / file.name).is_file() else file.plain_name
        path, compressed = source / name, file.is_compressed(name)
        try:
            if file.size <= SMALL_FILE:
                _read(path, file, compressed=compressed)
            elif not compressed and (size := path.stat().st_size) != file.size:
                raise _Failed(f"{name} has {size:,} bytes, expected {file.size:,}")
        except OSError:  # it is not there, or cannot be read
            continue
        except _Failed as failure:
            raise UserError(
                f"{source} does not hold {dataset}: {failure}; the {dataset} that is prepared already would be used "
                "instead, so remove --data.source to use it, or give other images as a data set of your own."
            ) from failure


def _read_folder(folder: Path, files: Sequence[RawFile]) -> dict[str, bytes]:
    """Reads every file of a folder, compressed or decompressed."""
    contents = {}
    try:
        if not folder.is_dir():
            raise _Failed("there is no such folder")
        for file in files:
            name = file.name if (folder / file.name).is_file() else file.plain_name
            contents[file.plain_name] = _read(folder / name, file, compressed=file.is_compressed(name))
    except FileNotFoundError:
        names = dict.fromkeys([file.name, file.plain_name])
        raise _Failed(f"it has {'no' if len(names) == 1 else 'neither'} {' nor '.join(names)}") from None
    except OSError as error:
        raise _Failed(_reason(error)) from error
    return contents


def _read(path: Path, file: RawFile, *, compressed: bool) -> bytes:
    """Reads and verifies a file; reading stops one byte after the expected size, whatever the file holds."""
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            content = stream.read(file.size + 1)
        is_valid = len(content) == file.size and hashlib.sha256(content).hexdigest() == file.sha256
    except (gzip.BadGzipFile, EOFError, zlib.error):
        is_valid = False
    if not is_valid:
        kind = " when decompressed" if compressed else ""
        raise _Failed(f"{file.name} is damaged, expected {file.size} bytes of sha256 {file.sha256}{kind}")
    return content


def _from_mirrors(
    origin: Origin, downloads: Path, say: Callable[[str], None], tried: list[str]
) -> tuple[dict[str, bytes], str] | None:
    downloads.mkdir(parents=True, exist_ok=True)
    contents = {}
    for file in origin.files:
        path = downloads / file.name
        if path.exists():
            try:
                contents[file.plain_name] = _read(path, file, compressed=file.is_compressed(file.name))
            except _Failed:
                path.unlink()
    hosts: dict[str, None] = {}
    for mirror in origin.mirrors:
        host = urlsplit(mirror).hostname or mirror
        try:
            for file in origin.files:
                if file.plain_name not in contents:
                    contents[file.plain_name] = _download(mirror, host, file, downloads, say)
                    hosts[host] = None
        except _Failed as failure:
            tried.append(f"{host}: {failure}")
            say(f"{host} failed: {failure}")
        else:
            return contents, f"downloaded from {' and '.join(hosts)}"
    return None


def _download(mirror: str, host: str, file: RawFile, downloads: Path, say: Callable[[str], None]) -> bytes:
    """Downloads a file; it gets its final name in `downloads` only after it is verified."""
    path = downloads / file.name
    part = downloads / f"{file.name}.part"
    for _ in range(2):
        resumed = _transfer(mirror + file.name, host, file, part, say)
        try:
            content = _read(part, file, compressed=file.is_compressed(file.name))
        except _Failed:
            part.unlink()
            if not resumed:
                break
            # A resumed part may have begun with bytes of another file, so that one fresh download is tried.
        else:
            with replacing(path, part):
                return content
    raise _Failed(f"{file.name} is damaged")


def _transfer(url: str, host: str, file: RawFile, part: Path, say: Callable[[str], None]) -> bool:
    """Downloads into `part`, resuming after its last byte; returns whether the file consists of several pieces."""
    receiving = resumed = False
    for _ in range(ATTEMPTS):
        if receiving:
            time.sleep(PAUSE)
        start = part.stat().st_size if part.exists() else 0
        try:
            response: HTTPResponse = urlopen(
                Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=CONNECTION_TIMEOUT
            )
        except HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return True  # no byte comes after the part: it is complete, or it belongs to another file
            raise _Failed(f"{file.name}: HTTP {error.code}") from error
        except (OSError, HTTPException) as error:
            reason = _reason(error)
            if not receiving:
                break  # the mirror cannot be reached; the next mirror is tried instead of this one again
            continue
        with response:
            if response.status != 206:
                start = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                reason = "the server sent another range than requested"
                continue
            if not receiving:
                size = f" ({_size(start + response.length)})" if response.length else ""
                say(f"{'resuming' if start else 'fetching'} {file.name}{size} from {host}")
            with part.open("ab" if start else "wb") as output:
                failure = _copy(response, output, limit=file.size + file.size // 100 + 4096)
                resumed = resumed or start > 0
                receiving = receiving or output.tell() > start
        if failure is None:
            return resumed
        reason = failure
        if not receiving:
            break
    raise _Failed(f"{file.name}: {reason}")


def _copy(response: HTTPResponse, output: BinaryIO, *, limit: int) -> str | None:
    """Appends the body to `output`; returns why it is incomplete, or `None` if it is complete.

    Copying stops after `limit` bytes, so that a wrong file cannot fill the disk; such a file fails the check.
    """
    missing = response.length  # None if the server does not state the length
    while output.tell() <= limit:
        try:
            chunk = response.read(2**16)
        except (OSError, HTTPException) as error:
            return _reason(error)
        if not chunk:
            # `read` with a length raises no error for a body that is shorter than its Content-Length.
            return f"the connection broke, {missing} bytes are missing" if missing else None
        output.write(chunk)
        missing = missing and missing - len(chunk)
    return None


def _from_package(origin: Origin, say: Callable[[str], None], tried: list[str]) -> tuple[dict[str, bytes], str] | None:
    package, system_folder = origin.debian_package, origin.system_folder
    if package is None or system_folder is None:
        return None
    try:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise _Failed("no apt-get on this machine")
        say(f"fetching the package {package} with apt-get, without installing it")
        with tempfile.TemporaryDirectory(prefix="visionbench-") as name:
            folder = _unpack_package(package, Path(name))
            contents = _read_folder(folder / system_folder.relative_to("/"), origin.files)
    except _Failed as failure:
        tried.append(f"the package {package}: {failure}")
    except OSError as error:  # of the temporary folder, not of `downloads`
        tried.append(f"the package {package}: {_reason(error)}")
    else:
        return contents, f"the package {package}"
    return None


def _unpack_package(package: str, folder: Path) -> Path:
    """Downloads and unpacks a package within `folder`, without changes to the system's apt; returns its folder."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    configuration = folder / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(folder=folder), encoding="utf-8")
    apt = ["apt-get", "-q", "-c", str(configuration)]
    note = ""
    try:
        _run([*apt, "update"], folder)
    except _Failed as failure:
        note = f" (apt-get update: {failure})"  # perhaps of another apt source than the one that has the package
    try:
        _run([*apt, "download", package], folder)
    except _Failed as failure:
        raise _Failed(f"{failure}{note}") from failure
    for archive in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(archive), "unpacked"], folder)
    return folder / "unpacked"


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=COMMAND_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise _Failed(f"{command[0]} took longer than {error.timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        causes = [line for line in lines if line.startswith("E: ")]  # the first error of apt causes the others
        raise _Failed(
            (causes[:1] or lines[-1:] or [f"{command[0]} ended with exit status {error.returncode}"])[0]
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _size(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
