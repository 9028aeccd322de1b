"""Names in folders of images: what systems and programs leave there, and names of classes."""

import os
import unicodedata
from collections.abc import Iterable, Sequence

from visionbench.errors import UserError
from visionbench.text import shown

# Names that file managers, archives, disk stations and file systems leave beside the user's own files, in lower case.
SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt", "zbthumbnail.info"}  # Windows
    | {"$recycle.bin", "recycler", "system volume information", "found.000", "$extend", "msdownld.tmp"}
    | {"icon\r", "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"}  # macOS
    | {"desktop db", "desktop df", "thefindbycontentfolder"}
    | {
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "#recycle",
        "#snapshot",
        "~snapshot",
    }  # stations
    | {"lost+found", "lost.dir", "aquota.user", "aquota.group"}  # Linux, Android
    | {"__pycache__"}
)
# Ends of the names of files that hold attributes of the file beside them.
SYSTEM_ENDINGS = (":zone.identifier", "@synoeastream", "@synoresource", ":encryptable")


def ignored_as(name: str) -> str | None:
    """The kind of name for which a file or folder is ignored; `None` for one of the user's.

    Args:
        name: Name of the file or folder, without its path.
    """
    folded = name.casefold()
    if name.startswith("._"):
        return "._*"
    if name.startswith(".") or folded in SYSTEM_NAMES:
        return shown(name)
    return next((f"*{name[-len(end) :]}" for end in SYSTEM_ENDINGS if folded.endswith(end)), None)


def is_ignored(entry: os.DirEntry[str]) -> bool:
    """Whether a file or folder is ignored: its name begins with a dot, or a system or program leaves such names."""
    return ignored_as(entry.name) is not None


def class_name(folder: str) -> str:
    """The name of the class of a folder, as it can be printed, with escapes for blanks at its ends.

    Names that differ only in how Unicode composes their letters, as file systems do, are one name.

    Args:
        folder: Name of the folder, without its path.
    """
    name = shown(unicodedata.normalize("NFC", folder))
    inner = name.strip(" ")
    before = len(name) - len(name.lstrip(" "))
    return r"\x20" * before + inner + r"\x20" * (len(name) - before - len(inner))


def check_distinct(names: Iterable[str], parent: str) -> None:
    """Refuses folders that are different to the file system, but whose classes have one name.

    Args:
        names: Names of the folders, without their paths.
        parent: Folder that holds them, for the message.

    Raises:
        UserError: Two folders have one name.
    """
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(class_name(name), name)
        if first != name:
            raise UserError(
                f"{shown(parent)} holds two folders whose names look the same, {class_name(name)}: Unicode composes "
                f"their letters differently ({first!a} and {name!a}); put their images into one folder."
            )


def look_alikes(class_names: Sequence[str]) -> list[str]:
    """Class names that differ from an earlier one only in blanks, or in forms of letters such as full width."""
    seen: dict[str, str] = {}
    alike: list[str] = []
    for name in class_names:
        key = "".join(unicodedata.normalize("NFKC", name.replace(r"\x20", "")).split())
        if (first := seen.setdefault(key, name)) != name:
            alike += [one for one in (first, name) if one not in alike]
    return alike
