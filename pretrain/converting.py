"""Pickled weights (`pytorch_model*.bin`) become safetensors, on request: no code of theirs is run, memory holds one tensor."""

import json
import os
import shutil
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from configs.errors import UserError
from data_pipeline.storage import put
from pretrain.importing import KEPT, MOST_BYTES
from pretrain.model.hf.published import INDEX, PICKLED, SINGLE

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def pickled_files(folder: Path) -> list[Path]:
    """The files that a conversion reads.

    Raises:
        UserError: there is none, or there are safetensors already.
    """
    if (folder / SINGLE).exists() or (folder / INDEX).exists():
        raise UserError(f"{folder} has safetensors already: use it as it is")
    found = sorted(folder.glob(PICKLED))
    if not found:
        raise UserError(f"{folder} has no {PICKLED}: there is nothing to convert")
    return found


def convert(folder: Path, out: Path, progress: bool = True) -> list[Path]:
    """Write `out`: the same folder with safetensors. It appears when it is whole. Returns the files with weights.

    Raises:
        UserError: `out` is there, or a file holds anything but tensors by name.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose another folder")
    files = pickled_files(folder)
    fresh = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    fresh.mkdir(parents=True)
    try:
        named, size = dict[str, str](), 0
        for number, path in enumerate(tqdm(files, unit=" file", desc="convert", disable=None if progress else True), 1):
            name = SINGLE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
            tensors = _load(path)
            twice = sorted(set(tensors) & set(named))
            if twice:
                raise UserError(f"{path} holds {twice[0]}, which {named[twice[0]]} has too: fetch the folder again")
            size += _write(fresh / name, tensors)
            named |= dict.fromkeys(tensors, name)
        if len(files) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": named}
            put(str(fresh / INDEX), json.dumps(index, indent=1).encode())
        for path in sorted(folder.iterdir()):
            if (
                path.suffix in KEPT
                and path.is_file()
                and path.stat().st_size <= MOST_BYTES
                and "index" not in path.name
            ):
                shutil.copyfile(path, fresh / path.name)
        os.rename(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return sorted(out.glob("*.safetensors"))


def _load(path: Path) -> dict[str, Tensor]:
    """Tensors by name, mapped from the file where its format allows that."""
    found = _unpickled(path)
    wrong = (
        [name for name, value in found.items() if not isinstance(value, Tensor)] if isinstance(found, dict) else ["it"]
    )
    if wrong:
        raise UserError(f"{path} holds more than tensors by name ({wrong[0]}): it is no file of a published model")
    odd = [name for name, value in found.items() if value.dtype not in NAMES or value.layout != torch.strided]
    if odd:
        raise UserError(f"{path} has {odd[0]} in {found[odd[0]].dtype}: {', '.join(NAMES.values())} can be converted")
    return dict(found)


def _unpickled(path: Path) -> Any:
    # `weights_only` knows tensors and plain containers; whatever else a pickle asks for is refused before it is called.
    try:
        try:
            return torch.load(path, map_location=_stay, mmap=True, weights_only=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(
                path, map_location=_stay, weights_only=True
            )  # torch < 1.6 wrote files that cannot be mapped
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no file of tensors alone ({said}): none of it was run; take a model that comes as safetensors"
        ) from None


def _stay(storage: Any, place: str) -> Any:
    """Tensors stay on the host, wherever they were saved."""
    return storage


def _write(path: Path, tensors: dict[str, Tensor]) -> int:
    """A safetensors file, tensor by tensor. Returns the tensors' bytes."""
    header, at = dict[str, Any](), 0
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for data in _bytes(tensors):
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return at


def _bytes(tensors: dict[str, Tensor]) -> Iterator[memoryview]:
    for tensor in tensors.values():
        yield memoryview(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
