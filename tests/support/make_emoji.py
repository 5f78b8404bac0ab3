"""Make data_pipeline/assets/fluent_emoji.parquet out of two npm packages (see data_pipeline/assets/README.md).

usage: make_emoji.py FLUENT_ASSETS_FOLDER EMOJIBASE_DATA_JSON OUT.parquet
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = 112
HELD_OUT = 0.1


def caption(label: str, tags: list[str]) -> str:
    """`octopus: animal, creature, ocean`: the label, then up to six tags that it does not contain."""
    fresh = [tag for tag in tags if tag not in label][:6]
    return f"{label}: {', '.join(fresh)}" if fresh else label


def main() -> None:
    assets, data, out = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    entries = {e["hexcode"].replace("-FE0F", ""): e for e in json.loads(data.read_text())}
    rows = []
    for path in sorted(assets.glob("*.webp")):
        code = path.stem.upper().replace("-FE0F", "")
        entry = entries.get(code)
        if entry is None:
            continue
        picture = Image.open(path).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        sink = io.BytesIO()
        picture.save(sink, "WEBP", quality=60, method=6, alpha_quality=60)
        share = int(hashlib.sha256(entry["label"].encode()).hexdigest()[:8], 16) / 2**32
        rows.append(
            {
                "image": {"bytes": sink.getvalue(), "path": path.name},
                "text": caption(entry["label"], entry.get("tags", [])),
                "label": entry["label"],
                "hexcode": entry["hexcode"],
                "split": "heldout" if share < HELD_OUT else "train",
            }
        )
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *((name, pa.string()) for name in ("text", "label", "hexcode", "split")),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), out, compression="zstd")
    held = sum(row["split"] == "heldout" for row in rows)
    print(f"{len(rows)} pairs, {held} held out, {Path(out).stat().st_size / 2**20:.2f} MB")


if __name__ == "__main__":
    main()
