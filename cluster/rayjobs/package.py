"""A checkout of looksay as the zip that Ray unpacks on its nodes: named by its content, the same bytes each time."""

import hashlib
import io
import zipfile
from pathlib import Path

from configs.errors import UserError

PACKAGES = ("configs", "data_pipeline", "cluster", "pretrain")
LEFT_OUT = ("__pycache__",)
MOST_BYTES = 64 << 20


def package_of(folder: str) -> tuple[str, bytes]:
    """Name and content of the zip of a checkout's packages.

    Raises:
        UserError: the folder is no checkout of looksay, or large beyond reason.
    """
    root = Path(folder).expanduser()
    missing = next((name for name in PACKAGES if not (root / name / "__init__.py").is_file()), None)
    if missing is not None:
        raise UserError(
            f"scheduler.working_dir {folder} is no checkout of looksay (it has no {missing}/): name one, or leave it out where "
            "looksay is installed on the nodes"
        )
    files = [path for name in PACKAGES for path in sorted((root / name).rglob("*")) if path.is_file()]
    kept = [path for path in files if not set(LEFT_OUT) & set(path.parts)]
    total = sum(path.stat().st_size for path in kept)
    if total > MOST_BYTES:
        raise UserError(f"scheduler.working_dir {folder} holds {total / 1e6:.0f} MB in {', '.join(PACKAGES)}: too much")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in kept:
            entry = zipfile.ZipInfo(str(path.relative_to(root)), (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    data = stream.getvalue()
    return f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:32]}.zip", data
