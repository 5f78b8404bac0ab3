"""A Ray to run on: the one that runs in this process already, a cluster at an address, or one of our own on loopback."""

import contextlib
import getpass
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator

from configs.errors import UserError
from configs.ingest import RayConfig

_WORKERS = ("PYTHONSAFEPATH", "RAY_USAGE_STATS_ENABLED", "PYTHONPATH", "WDS_SECURE")
"""Environment that workers inherit; the driver gets its own back."""
AUTH, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_OWN_TOKEN = secrets.token_hex(32)
"""Of the local Ray: the one that Ray itself would leave in ~/.ray may be readable by others."""


def _python_path() -> str:
    """PYTHONPATH of workers: a checkout that is not installed must be found by them too."""
    given = os.environ.get("PYTHONPATH", "")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(root) in ("site-packages", "dist-packages") or root in given.split(os.pathsep):
        return given
    return os.pathsep.join(part for part in (given, root) if part)


@contextlib.contextmanager
def local_ray(config: RayConfig) -> Iterator[None]:
    """A Ray inside: the one that runs already in this process, the cluster at `address` or RAY_ADDRESS, or a local one.

    The local one listens on loopback, wants a token, has no dashboard, and ends with the outermost `with`. Ray would put the
    driver's working folder on its workers' path, where a user's own `configs/` could shadow ours: so it starts from
    an empty folder and with Python's safe path on.

    Raises:
        UserError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    here = os.getcwd()
    neutral = tempfile.mkdtemp(prefix="looksay-ray-")
    address = config.address or _address_around()
    before = {name: os.environ.get(name) for name in (*_WORKERS, AUTH, TOKEN)}
    os.environ |= {
        "PYTHONSAFEPATH": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": _python_path(),
        "WDS_SECURE": "1",
    }
    temporary = os.path.join(tempfile.gettempdir(), f"looksay-{getpass.getuser()}-{os.getpid()}")
    try:
        os.chdir(neutral)
        if address:
            _join(address)
        else:
            os.environ |= {AUTH: "token", TOKEN: _OWN_TOKEN}
            _read_auth_again()
            ray.init(
                num_cpus=config.workers or os.cpu_count() or 1,
                object_store_memory=config.object_store_mb * 2**20,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=temporary,
                log_to_driver=False,
                logging_level="error",
            )
        os.chdir(here)
        yield
    finally:
        os.chdir(here)
        ray.shutdown()
        shutil.rmtree(neutral, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_auth_again()
        if not address:
            shutil.rmtree(temporary, ignore_errors=True)


def _has_token() -> bool:
    """Whether this user has a token for Ray clusters, where Ray looks for it."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or os.path.exists(os.path.expanduser("~/.ray/auth_token"))


def _address_around() -> str | None:
    """Ray's own variable: set in its jobs, and in ours that bring a Ray along. `local` asks for a new one."""
    given = os.environ.get("RAY_ADDRESS")
    return given if given and given != "local" else None


def _read_auth_again() -> None:
    """Ray looks at RAY_AUTH_* when it is imported, and keeps the token. Its older versions know neither."""
    with contextlib.suppress(ImportError, AttributeError):
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def _environment_of_job() -> dict[str, str]:
    """What the Ray job that this process drives gives its workers anyway; Ray refuses to be told twice."""
    try:
        told = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except ValueError:
        return {}
    return dict(told.get("runtime_env", {}).get("env_vars", {}))


def _join(address: str) -> None:
    import ray

    taken = _environment_of_job()
    environment = {name: os.environ[name] for name in _WORKERS if os.environ.get(name) and name not in taken}
    # `ray start --head` asks for a token as soon as its user has one; `ray.init` shows it only when told to.
    if AUTH not in os.environ and _has_token():
        os.environ[AUTH] = "token"
    _read_auth_again()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env={"env_vars": environment})
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no Ray cluster can be joined at ray.address {address!r} ({first}): check the address, or leave it out"
        ) from None
