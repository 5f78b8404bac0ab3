"""Peak memory of importing a published model of 7 B parameters; its weights are holes in sparse files.

python benchmarks/import_memory.py [--folder DIR]               # writes 14 GB there
python benchmarks/import_memory.py --layers 8 --peer            # 2 B, and transformers' from_pretrained, which maps the files
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pretrain.model.hf.families import FAMILIES  # noqa: E402
from pretrain.model.hf.llava import CLIP_L  # noqa: E402

CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "vision_config": {"model_type": "clip_vision_model", **CLIP_L},
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "image_token_index": 32000,
}
SHARDS = 3


PEER = """
import sys, torch, transformers
model = transformers.LlavaForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
"""
"""How an import through transformers begins: the files are mapped, and read where somebody looks."""


def write_sparse(folder: Path, layers: int) -> int:
    """The published folder of LLaVA-1.5 7B (with so many layers) in bf16, all zeros. Returns its parameters."""
    family = FAMILIES["llava"]
    config = {**CONFIG, "text_config": {**CONFIG["text_config"], "num_hidden_layers": layers}}
    rules = family.rules_of(family.model_of(config))
    shapes = {family.published_name(rule.theirs): rule.published for rule in rules}
    named, total = {}, 0
    for shard in range(SHARDS):
        name, at, header = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors", 0, {}
        for key in list(shapes)[shard::SHARDS]:
            count = 1
            for size in shapes[key]:
                count *= size
            header[key] = {"dtype": "BF16", "shape": list(shapes[key]), "data_offsets": [at, at + 2 * count]}
            named[key], at, total = name, at + 2 * count, total + count
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 2 * total}, "weight_map": named})
    )
    (folder / "config.json").write_text(json.dumps(config))
    return total


def measured(command: list[str]) -> dict[str, float]:
    """Seconds and peak resident memory of a process, in GB."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:4]} ended with {status}")
    return {"seconds": round(time.perf_counter() - begun, 1), "peak_rss_gb": round(usage.ru_maxrss / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--layers", type=int, default=32, help="of the decoder")
    parser.add_argument("--peer", action="store_true", help="transformers too")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="looksay-import-", dir=args.folder))
    try:
        (folder / "hf").mkdir()
        found: dict[str, Any] = {"parameters": write_sparse(folder / "hf", args.layers)}
        command = [
            sys.executable,
            "-m",
            "pretrain.cli.main",
            "import",
            str(folder / "hf"),
            str(folder / "run"),
            "--json",
        ]
        found["looksay"] = measured(command)
        if args.peer:
            found["transformers"] = measured([sys.executable, "-c", PEER, str(folder / "hf")])
        print(json.dumps(found))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
