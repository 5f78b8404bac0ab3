"""Folders that no head names any more: what killed starts left unfinished, and old checkpoints. No torch."""

import re

from data_pipeline import storage
from pretrain.checkpoint.head import Head

FOLDER = re.compile(r"(?:step-\d{8}|frozen)\.g(\d{8})")


def leftovers_of(root: str, head: Head) -> list[str]:
    """Folders of starts before the newest one that `head` does not name. What the newest start has not committed is its own."""
    named = {entry.folder for entry in head.entries} | {entry.frozen for entry in head.entries}
    named |= {head.frozen[0]} if head.frozen else set()
    found = [(name, match) for name in storage.listdir(root) if (match := FOLDER.fullmatch(name))]
    return [name for name, match in found if name not in named and int(match[1]) < head.generation]
