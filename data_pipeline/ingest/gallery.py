"""A dataset for people: a summary for the terminal, and a gallery page."""

import base64
import io
import json
from html import escape
from typing import Any

from PIL import Image

from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.sample import IMAGE_MARK, Conversation, parse_body
from data_pipeline.shard import read_table
from data_pipeline.storage import join, put, read_bytes, read_range

THUMBNAIL = 144
REJECTED_SHOWN = 200


def _samples(folder: str, manifest: Manifest, count: int) -> list[tuple[str, Conversation, list[bytes], list[str]]]:
    """`count` samples spread over the whole dataset: (key, conversation, pictures, sizes)."""
    total = manifest.totals["kept"]
    wanted = sorted({i * total // max(1, count) for i in range(min(count, total))})
    out, start = [], 0
    for entry in manifest.shards:
        mine = [i - start for i in wanted if start <= i < start + entry.samples]
        start += entry.samples
        if not mine:
            continue
        rows = read_table(read_bytes(join(folder, f"{entry.name}.index.parquet"))).take(mine).to_pylist()
        tar = join(folder, f"{entry.name}.tar")
        for row in rows:
            talk = parse_body(read_range(tar, row["json_offset"], row["json_size"]))
            pictures = [read_range(tar, o, s) for o, s in zip(row["image_offset"], row["image_size"], strict=True)]
            sizes = [f"{w} x {h}" for w, h in zip(row["width"], row["height"], strict=True)]
            out.append((row["key"], talk, pictures, sizes))
    return out


def show(folder: str, samples: int = 5, as_json: bool = False) -> str:
    """Totals, rejections and some samples as text (or one JSON object)."""
    manifest = read_manifest(folder)
    chosen = _samples(folder, manifest, samples)
    if as_json:
        rows = [
            {
                "key": key,
                "pictures": sizes,
                "text": talk.text,
                "messages": [[m.role, m.content] for m in talk.messages or ()],
                "provenance": talk.provenance,
            }
            for key, talk, _, sizes in chosen
        ]
        return json.dumps(
            {"name": manifest.name, "shards": len(manifest.shards), "totals": manifest.totals, "samples": rows}
        )
    totals = manifest.totals
    lines = [
        f"{manifest.name}: {totals['kept']:,} samples in {len(manifest.shards)} shards, {totals['bytes'] / 2**20:.1f} MB",
        f"rows in {totals['rows']:,} = kept {totals['kept']:,} + rejected {sum(totals['rejected'].values()):,}",
        *(f"  rejected {reason}: {count:,}" for reason, count in totals["rejected"].items()),
        "pictures a sample: " + ", ".join(f"{n:,} with {k}" for k, n in totals["pictures_per_sample"].items()),
    ]
    for key, talk, _, sizes in chosen:
        lines.append(f"\n{key}  {', '.join(sizes)}")
        if talk.messages is None:
            lines.append(f"  {talk.text}")
        else:
            lines += [f"  {message.role:>9}: {message.content}" for message in talk.messages]
    return "\n".join(lines)


def write_gallery(folder: str, out: str, limit: int = 120) -> str:
    """Write a self-contained page of at most `limit` samples and the rejections; returns its path."""
    manifest = read_manifest(folder)
    cards = "".join(_card(*sample) for sample in _samples(folder, manifest, limit))
    totals = manifest.totals
    counts = sorted(totals["pictures_per_sample"])
    filters = "".join(
        f'<label><input type="checkbox" checked value="{n}"> {n} picture{"s" if n != "1" else ""}</label>'
        for n in counts
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(manifest.name)}</title><style>{_STYLE}</style>'
        f"<header><h1>{escape(manifest.name)}</h1><p><b>{totals['rows']:,}</b> rows in, <b>{totals['kept']:,}</b> kept in "
        f"{len(manifest.shards)} shards, <b>{sum(totals['rejected'].values()):,}</b> rejected</p><nav>{filters}</nav></header>"
        f"<main>{cards}</main>{_rejections(folder, manifest)}<script>{_SCRIPT}</script></html>"
    )
    put(out, page.encode())
    return out


def _card(key: str, talk: Conversation, pictures: list[bytes], sizes: list[str]) -> str:
    images = "".join(
        f'<img src="{_thumbnail(data)}" alt="{escape(size)}" title="{escape(size)}" loading="lazy">'
        for data, size in zip(pictures, sizes, strict=True)
    )
    if talk.messages is None:
        text = "".join(f"<p>{escape(part)}</p>" for part in (talk.text or "").split(IMAGE_MARK) if part)
    else:
        text = "".join(
            f'<p class="{m.role}">{escape(m.content.replace(IMAGE_MARK, "[picture] "))}</p>' for m in talk.messages
        )
    return f'<article data-pictures="{len(pictures)}"><div class="pictures">{images}</div>{text}<small>{escape(key)}</small></article>'


def _thumbnail(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
    sink = io.BytesIO()
    small.save(sink, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()


def _rejections(folder: str, manifest: Manifest) -> str:
    """Rejected rows with their reasons, the first of them one by one."""
    rows: list[dict[str, Any]] = []
    for entry in manifest.shards:
        if len(rows) >= REJECTED_SHOWN or not manifest.totals["rejected"]:
            break
        table = read_table(read_bytes(join(folder, f"{entry.name}.outcomes.parquet")))
        rows += [row for row in table.to_pylist() if row["outcome"] != "kept"]
    if not rows:
        return "<footer><h2>Rejected</h2><p>Nothing was rejected.</p></footer>"
    totals = "".join(f"<li>{escape(reason)}: {count:,}</li>" for reason, count in manifest.totals["rejected"].items())
    body = "".join(
        f"<tr><td>{row['position']}</td><td>{escape(row['stage'])}/{escape(row['reason'])}</td><td>{escape(row['detail'] or '')}</td></tr>"
        for row in rows[:REJECTED_SHOWN]
    )
    return f"<footer><h2>Rejected</h2><ul>{totals}</ul><table><tr><th>row</th><th>reason</th><th>detail</th></tr>{body}</table></footer>"


_STYLE = """
:root{--ink:#1d2430;--soft:#667;--paper:#fbfaf7;--card:#fff;--line:#e4e1d8;--mark:#2563a8}
@media(prefers-color-scheme:dark){:root{--ink:#e8e6e0;--soft:#9aa4b2;--paper:#14171c;--card:#1c2027;--line:#2e343e;--mark:#6aa9f0}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
header,footer{padding:1rem 1.5rem}h1{font:600 1.7rem ui-serif,Georgia,serif;margin:.5rem 0 0}
nav label{margin-right:1rem;color:var(--soft)}
main{columns:17rem;column-gap:1rem;padding:0 1.5rem}
article{break-inside:avoid;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.8rem;margin:0 0 1rem;overflow-wrap:anywhere}
article[hidden]{display:none}
.pictures{display:flex;flex-wrap:wrap;gap:.4rem}img{border-radius:8px;max-width:100%;background:#fff}
p{margin:.4rem 0}.user{color:var(--soft)}.assistant{color:var(--mark);font-weight:600}small{color:var(--soft)}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line)}
"""
_SCRIPT = """
const boxes=[...document.querySelectorAll("nav input")];
const apply=()=>{const on=new Set(boxes.filter(b=>b.checked).map(b=>b.value));
for(const a of document.querySelectorAll("article"))a.hidden=!on.has(a.dataset.pictures)};
boxes.forEach(b=>b.addEventListener("change",apply));
"""
