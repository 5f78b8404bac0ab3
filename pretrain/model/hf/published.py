"""A published folder: config.json and safetensors, whole or sharded, read one tensor at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from configs.errors import UserError
from pretrain.model.hf.tensor_file import open_tensors

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLED = "pytorch_model*.bin"
TOWER = "vision_tower"


def configuration(folder: Path) -> dict[str, Any]:
    """A folder's config.json; where a vision tower lies in a folder inside, its config.json as `vision_config`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    config = read_json(folder, "config.json")
    inside = tower_inside(folder, config)
    if inside:
        tower = read_json(folder / inside, "config.json")
        # A tower cut out of the whole of CLIP may still have the whole's configuration.
        config["vision_config"] = tower.get("vision_config") or tower
    return config


def tower_inside(folder: Path, config: dict[str, Any]) -> Path | None:
    """Where in a folder the vision tower's own folder lies: `vision_tower`, or what LLaVA's `mm_vision_tower` names."""
    if "mm_vision_tower" not in config:
        return None
    for inside in (Path(TOWER), Path(str(config["mm_vision_tower"]))):
        if not inside.is_absolute() and ".." not in inside.parts and (folder / inside / "config.json").exists():
            return inside
    return None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a published folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / name
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} has no {name}: give a folder as `save_pretrained` makes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch the folder again") from None
    return found


class Published:
    """Read access to a folder's configuration and tensors.

    Raises:
        UserError: it is no such folder, holds pickled weights only, or its parts contradict each other.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.config: dict[str, Any] = configuration(folder)
        self._files = self._where()

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    @property
    def files(self) -> list[Path]:
        """Those that hold its tensors."""
        return [self.folder / name for name in sorted(set(self._files.values()))]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        with self._opened(self._files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Of a tensor, as safetensors writes it: F32, BF16, ..."""
        with self._opened(self._files[name]) as file:
            return str(file.get_slice(name).get_dtype())

    def tensor(self, name: str) -> Tensor:
        """One tensor, in its published dtype."""
        with self._opened(self._files[name]) as file:
            found: Tensor = file.get_tensor(name)
            return found

    @staticmethod
    def of_file(path: Path) -> dict[str, Tensor]:
        """All tensors of one file."""
        with open_tensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def _where(self) -> dict[str, str]:
        if (self.folder / INDEX).exists():
            named: dict[str, str] = read_json(self.folder, INDEX)["weight_map"]
            files = sorted(set(named.values()))
        elif (self.folder / SINGLE).exists():
            named, files = {}, [SINGLE]
        else:
            pickled = next((path.name for path in self.folder.glob("*.bin")), None)
            if pickled:
                raise UserError(
                    f"{self.folder / pickled} is pickled, which may run code when it is read: "
                    f"`looksay convert {self.folder} OUT` makes safetensors of it and runs none"
                )
            raise UserError(f"{self.folder} has neither {SINGLE} nor {INDEX}: give a folder with safetensors")
        found: dict[str, str] = {}
        for name in files:
            if Path(name).name != name:
                raise UserError(f"{self.folder / INDEX} names {name!r}, a file elsewhere: fetch the folder again")
            for key in self._keys(name):
                found[key] = name
        missing = sorted(set(named) - set(found))
        if missing:
            raise UserError(
                f"{self.folder} lacks {missing[0]} and {len(missing) - 1} more that its index names: fetch it again"
            )
        return found

    def _keys(self, name: str) -> Iterator[str]:
        with self._opened(name) as file:
            yield from file.keys()

    def _opened(self, name: str) -> Any:
        path = self.folder / name
        try:
            return open_tensors(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: fetch the folder again") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}): fetch it again") from None
