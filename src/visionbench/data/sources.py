"""Raw files of a data set: found, fetched, verified.

The downloader is our own, not pooch's, for two reasons: pooch starts a broken download again from zero, and it checks
the compressed file, whose sum differs from mirror to mirror as each may have compressed it in its own way.
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

ATTEMPTS = 5  # connections for one file, once its bytes have begun to flow
PAUSE = 1.0  # seconds before connecting again
CONNECTION_TIMEOUT = 10.0  # seconds; short, so that a network that swallows packets is not waited on for long
COMMAND_TIMEOUT = 300.0  # seconds; long, for slow lines: of a dead one apt itself takes leave sooner

# The machine's own sources and credentials stay in force; only what apt would write goes elsewhere. The hooks are
# cleared because they would touch the system's folders. The `_apt` user could not enter the private folder, so root
# stays root. `Error-Mode` turns what apt only warns of, such as no network, into a reason that can be told.
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
    """A file to find.

    Attributes:
        name: As mirrors serve it, e.g. `train-images-idx3-ubyte.gz`.
        sha256: Of the decompressed content, so that one sum serves every mirror, whatever compressed it.
        size: Bytes, decompressed.
        is_archive: Whether it is an archive that is the same wherever it is served: sum and size are then its own, and
            it is given as it is.
    """

    name: str
    sha256: str
    size: int
    is_archive: bool = False

    @property
    def plain_name(self) -> str:
        """The name of the decompressed file."""
        return self.name if self.is_archive else self.name.removesuffix(".gz")

    def is_compressed(self, name: str) -> bool:
        """Whether a file of this name holds it in compressed form."""
        return name.endswith(".gz") and not self.is_archive


@dataclass(frozen=True)
class Origin:
    """Where a data set's files may be found.

    Attributes:
        files: What to find.
        mirrors: URL prefixes that end in `/`; one of them and a file's name are the file's address.
        system_folder: Where a system-wide installation puts the files.
        debian_package: The package of Debian and Ubuntu that holds `system_folder`.
    """

    files: tuple[RawFile, ...]
    mirrors: tuple[str, ...]
    system_folder: Path | None = None
    debian_package: str | None = None


class _Failed(Exception):
    """One way of getting the files did not work; the message is a short reason."""


def fetch(
    origin: Origin,
    *,
    dataset: str,
    source: Path | None,
    downloads: Path,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, bytes], str]:
    """Gets the verified, decompressed content of every file from the first place that has it.

    The places, in order: `source`, and if it is given nothing else; the system's folder; what was downloaded before;
    the mirrors; the Debian package, unpacked into a temporary folder without root and without installing it.

    Args:
        origin: What to get, and from where.
        dataset: The data set's name in messages.
        source: A folder with every file, as it is served or decompressed; it is only read.
        downloads: Where downloads go, whole or in part; it is made where a mirror is asked.
        offline: Ask neither the mirrors nor for the package.
        say: Takes a line for each file that is fetched and each place that failed.

    Returns:
        The contents, by name without `.gz`, and a phrase that says where they came from.

    Raises:
        UserError: `source` lacks a file or holds a damaged one; or no place has them all, with the reason for each.
        OSError: `downloads` cannot be written.
    """
    if source is not None:
        try:
            return _read_folder(source, origin.files), f"the folder {source}"
        except _Failed as failure:
            raise UserError(
                f"{dataset} cannot be read from the folder {source}: {failure}; mend it, or leave out --data.source to "
                "have the files fetched."
            ) from failure
    tried: list[str] = []
    for folder in (origin.system_folder, downloads):
        if folder is not None:
            try:
                return _read_folder(folder, origin.files), f"the folder {folder}"
            except _Failed as failure:
                tried.append(f"{folder}: {failure}")
    if offline:
        tried.append("the network: not asked, because offline is on")
    else:
        found = _from_mirrors(origin, downloads, say, tried) or _from_package(origin, say, tried)
        if found:
            return found
    advice = ["run once without offline" if offline else "connect to the internet"]
    if origin.debian_package:
        advice.append(f"install the package with `sudo apt install {origin.debian_package}`")
    names = ", ".join(file.name for file in origin.files)
    raise UserError(
        f"{dataset} is not on this machine and could not be fetched (tried {'; '.join(tried)}); {', '.join(advice)}, "
        f"or give the folder that holds {names} with --data.source."
    )


def _read_folder(folder: Path, files: Sequence[RawFile]) -> dict[str, bytes]:
    """Reads every file, by its own name or decompressed."""
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
    """Reads and verifies a file, of which no more than one byte too many is decompressed."""
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            content = stream.read(file.size + 1)
        whole = len(content) == file.size and hashlib.sha256(content).hexdigest() == file.sha256
    except (gzip.BadGzipFile, EOFError, zlib.error):
        whole = False
    if not whole:
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
    """Downloads a file; its name appears in `downloads` only once it is verified."""
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
            # What the part began with may have been another file's; only one that came in one piece is surely bad.
        else:
            with replacing(path, part):
                return content
    raise _Failed(f"{file.name} is damaged")


def _transfer(url: str, host: str, file: RawFile, part: Path, say: Callable[[str], None]) -> bool:
    """Completes `part`, continuing from what is there; returns whether it was put together from several pieces."""
    flowing = resumed = False
    for _ in range(ATTEMPTS):
        if flowing:
            time.sleep(PAUSE)
        start = part.stat().st_size if part.exists() else 0
        try:
            response: HTTPResponse = urlopen(
                Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=CONNECTION_TIMEOUT
            )
        except HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return True  # nothing comes after what is there: it is the whole file, or never was this file
            raise _Failed(f"{file.name}: HTTP {error.code}") from error
        except (OSError, HTTPException) as error:
            reason = _reason(error)
            if not flowing:
                break  # a mirror out of reach: the next one is a better bet than this one again
            continue
        with response:
            if response.status != 206:
                start = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                reason = "another range than the one asked for"
                continue
            if not flowing:
                size = f" ({_size(start + response.length)})" if response.length else ""
                say(f"{'resuming' if start else 'fetching'} {file.name}{size} from {host}")
            with part.open("ab" if start else "wb") as output:
                broken = _copy(response, output, limit=file.size + file.size // 100 + 4096)
                resumed = resumed or start > 0
                flowing = flowing or output.tell() > start
        if broken is None:
            return resumed
        reason = broken
        if not flowing:
            break
    raise _Failed(f"{file.name}: {reason}")


def _copy(response: HTTPResponse, output: BinaryIO, *, limit: int) -> str | None:
    """Appends the body to `output`; returns why it broke off, or `None` if it came whole.

    A body that runs past `limit` fills no disk: what no honest compression needs is left, and fails the check.
    """
    missing = response.length  # None where the server does not say
    while output.tell() <= limit:
        try:
            chunk = response.read(2**16)
        except (OSError, HTTPException) as error:
            return _reason(error)
        if not chunk:
            # `read` with a length is silent about a body that is shorter than its Content-Length.
            return f"the connection broke, {missing} bytes short" if missing else None
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
    except OSError as error:  # the temporary folder, which has nothing to do with `downloads`
        tried.append(f"the package {package}: {_reason(error)}")
    else:
        return contents, f"the package {package}"
    return None


def _unpack_package(package: str, folder: Path) -> Path:
    """Downloads and unpacks a package within `folder`, leaving the system's apt as it is; returns where it lies."""
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
        note = f" (apt-get update: {failure})"  # one of several sources may have failed, and not the one we need
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
        causes = [line for line in lines if line.startswith("E: ")]  # of apt's, the first one; the rest follow from it
        raise _Failed((causes[:1] or lines[-1:] or [f"{command[0]} left with {error.returncode}"])[0]) from error


def _reason(error: Exception) -> str:
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _size(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
