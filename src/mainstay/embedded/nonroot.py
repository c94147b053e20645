"""Run a program that refuses to be root, as root: ``python -S -E nonroot.py PROGRAM …``.

The program runs in a user namespace of its own, where its user has number 1000. To the kernel it
stays root, so its data and its binaries may lie where nobody else can look. Without a program,
only try whether namespaces are open here. Exit code 77 (EX_NOPERM of sysexits.h): they are not.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["NOT_PERMITTED", "enter_namespace"]

NOT_PERMITTED = 77

_CLONE_NEWUSER = 0x10000000
_USER = 1000


def enter_namespace() -> None:
    """Move this process into a new user namespace.

    Raises:
        OSError: The kernel, or the container around us, does not permit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    # The order is the kernel's: groups can be mapped only once setgroups is given up.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_USER} 0 1")
    Path("/proc/self/gid_map").write_text(f"{_USER} 0 1")


if __name__ == "__main__":
    try:
        enter_namespace()
    except OSError:
        sys.exit(NOT_PERMITTED)
    if len(sys.argv) > 1:
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 (no shell is the point)
