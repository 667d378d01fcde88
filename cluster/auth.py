"""The cluster's token: made by us, in a file that only its owner reads.

Ray would write one with mode 0644 (`ray get-auth-token --generate`, 2.60), and `ray start` alone only warns
when there is none.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from cluster.output_guard import learn_secret

TOKEN_FILE = "auth_token"


class AuthError(ValueError):
    """A token that cannot be used as it lies there."""


def private_folder(path: Path) -> Path:
    """Make a folder with mode 0700, whatever the umask. Raises AuthError when others may look into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_private(path, 0o700)
    return path


def make_token(folder: Path) -> Path:
    """The token file in `folder`; 256 random bits when it is not there yet."""
    path = private_folder(folder) / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        read_token(path)
        return path
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(descriptor)
    return path


def read_token(path: Path) -> str:
    """The token. Raises AuthError when the file is missing, empty, or open to others."""
    if not path.is_file():
        raise AuthError(f"{path}: no token here; was this cluster made by `omniopsd-cluster up`?")
    _require_private(path, 0o600)
    token = path.read_text(encoding="ascii").strip()
    if len(token) < 32:
        raise AuthError(f"{path}: too short for a token; run `omniopsd-cluster down`, then `up`")
    learn_secret(token, "the cluster's token")
    return token


def _require_private(path: Path, mode: int) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid():
        raise AuthError(f"{path}: is a link or belongs to another user; remove it")
    if found.st_mode & 0o077:
        raise AuthError(
            f"{path}: mode {stat.S_IMODE(found.st_mode):04o} lets others read it; run `chmod {mode:o} {path}`, "
            "and make a new token if others were there"
        )
