"""Tokens of Ray clusters: found where Ray itself looks, never on a command line, and new ones in files of mode 600."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from configs.errors import UserError

MODE, TOKEN, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
USUAL = Path("~/.ray/auth_token")


def find_token(environ: Mapping[str, str], file: str | None = None) -> tuple[str | None, str]:
    """The token, and where it is from: `file` if given, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        UserError: a file that was named cannot be read, or is empty.
    """
    if file is None and environ.get(TOKEN):
        return environ[TOKEN], TOKEN
    named = file or environ.get(PATH)
    path = Path(named or USUAL).expanduser()
    if named is None and not path.is_file():
        return None, f"{TOKEN}, {PATH} or {USUAL}"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"the token of Ray in {path} cannot be read ({said}): correct scheduler.token_file") from None
    if not token or any(ord(letter) < 33 or ord(letter) > 126 for letter in token):
        raise UserError(f"{path} holds no token of Ray: one line of letters and digits belongs there")
    return token, str(path)


def new_token() -> dict[str, str]:
    """A token of a cluster that starts now, as the environment of its processes: lists of processes do not show it."""
    return {MODE: "token", TOKEN: secrets.token_hex(32)}


def write_secret(path: Path, text: str) -> None:
    """A file that only this user can read, there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)
