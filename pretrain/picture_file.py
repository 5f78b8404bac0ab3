"""A picture that a user names on the command line, as pixels. No torch: bad input is refused before a model is opened."""

from pathlib import Path

import numpy as np

from configs.errors import UserError
from data_pipeline.ingest.decode import decode

MOST_PIXELS = 178_956_970
"""As many as a build takes by default."""


def read_picture(path: str) -> np.ndarray:
    """A picture file as [H, W, 3] uint8: EXIF orientation applied, alpha on white.

    Raises:
        UserError: it is missing or not a picture.
    """
    if not Path(path).is_file():
        raise UserError(f"--image {path} does not exist: give a picture file")
    try:
        return np.asarray(decode(Path(path).read_bytes(), MOST_PIXELS))
    except (ValueError, OSError) as error:
        raise UserError(
            f"--image {path} is not a picture that can be read ({error}): convert it to PNG or JPEG"
        ) from None
