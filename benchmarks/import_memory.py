"""Peak memory of importing a published model of 7 B parameters; its weights are holes in sparse files.

python benchmarks/import_memory.py [--folder DIR]     # writes 14 GB there
"""

import argparse
import json
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pretrain.model.hf.families import FAMILIES  # noqa: E402

CONFIG = {
    "model_type": "llava",
    "vision_config": {"model_type": "clip_vision_model"},
    "text_config": {"model_type": "llama", "vocab_size": 32064},
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "image_token_index": 32000,
}
SHARDS = 3


def write_sparse(folder: Path) -> int:
    """The published folder of LLaVA-1.5 7B in bf16, all zeros. Returns its parameters."""
    family = FAMILIES["llava"]
    rules = family.rules_of(family.model_of(CONFIG))
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
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="looksay-import-", dir=args.folder))
    try:
        (folder / "hf").mkdir()
        count = write_sparse(folder / "hf")
        begun = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "pretrain.cli.main",
            "import",
            str(folder / "hf"),
            str(folder / "run"),
            "--json",
        ]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(json.dumps({"parameters": count, "seconds": time.perf_counter() - begun, "peak_rss_gb": peak}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
