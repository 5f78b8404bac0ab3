"""Three real sets that nobody tuned a data build for: clip art, picture stamps, and the figures of a manual.

    python benchmarks/real_sets.py fetch      download the Debian packages, check their sums, unpack them (700 MB of disk)
    python benchmarks/real_sets.py prepare    write a source of each: a jsonl table, a folder, a csv table
    python benchmarks/real_sets.py build      `looksay data build` on each; prints the table

openclipart: all 8,121 names with title and keywords, unfiltered: palette, grey and 16-bit pictures, 1,221 links to
other pictures, and 15 (under 16 names) above Pillow's limit for decompression bombs. tuxpaint stamps: cut-outs on
transparent ground with their English line. gimp-help: figures with their title or caption. Licences: openclipart public
domain; tuxpaint GPL-2; gimp-help GFDL: all stay in the cache that git ignores. Nothing is dropped here: what is unfit
is for the build to find and to count.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from debian_files import cache, unpacked

ROOT = Path(__file__).resolve().parents[1]
SOURCES = cache() / "real_sets"
DC = "{http://purl.org/dc/elements/1.1/}"
RDF_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


def fetch() -> None:
    for name in ("openclipart-png", "openclipart-svg", "tuxpaint-stamps-default", "gimp-help-en"):
        start = time.monotonic()
        print(f"{name}: {unpacked(name)} ({time.monotonic() - start:.0f} s)", flush=True)


def prepare() -> None:
    SOURCES.mkdir(parents=True, exist_ok=True)
    print(f"openclipart: {_openclipart(SOURCES / 'openclipart.jsonl')} rows")
    print(f"tuxpaint: {_tuxpaint(SOURCES / 'tuxpaint')} pictures")
    print(f"gimp-help: {_gimp_help(SOURCES / 'gimp_help.csv')} rows")


def clip_art() -> Path:
    return unpacked("openclipart-png") / "usr/share/openclipart/png"


def _openclipart(table: Path) -> int:
    """A line for each name, links too: {"image": path below the PNGs' folder, "text": title | keywords}."""
    pictures = clip_art()
    drawings = unpacked("openclipart-svg") / "usr/share/openclipart/svg"
    names = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    with open(table, "w", encoding="utf-8") as lines:
        for name in names:
            row = {"image": str(name), "text": _described(drawings / name.with_suffix(".svg"))}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(names)


def _described(drawing: Path) -> str:
    """Title and keywords of an SVG's metadata; what cannot be read gives an empty text."""
    if not drawing.exists():
        return ""
    try:
        metadata = ElementTree.parse(drawing).getroot().find(".//{*}metadata")
    except ElementTree.ParseError:
        return ""
    if metadata is None:
        return ""
    title = (metadata.findtext(f".//{{*}}Work/{DC}title") or "").strip()  # not its makers' names, which are titles too
    keywords = [(item.text or "").strip() for item in metadata.iter(RDF_ITEM)]
    return " | ".join(part for part in (title, ", ".join(word for word in keywords if word)) if part)


def _tuxpaint(folder: Path) -> int:
    """A folder source: each PNG (a hard link where the disk allows it) with NAME.txt, the first line of the package's."""
    shutil.rmtree(folder, ignore_errors=True)
    stamps = unpacked("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    pictures = sorted(stamps.rglob("*.png"))
    for picture in pictures:
        target = folder / picture.relative_to(stamps)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(picture, target)
        except OSError:
            shutil.copyfile(picture, target)
        text = picture.with_suffix(".txt")
        if text.exists():  # mirrored ones have none: the build has to say so
            first = text.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
            target.with_suffix(".txt").write_text("".join(first) + "\n", encoding="utf-8")
    return len(pictures)


def manual() -> Path:
    return unpacked("gimp-help-en") / "usr/share/gimp/2.0/help/en"


def _gimp_help(table: Path) -> int:
    """A row for each picture that has a caption, or a figure's title, in any page of the manual; repeats stay."""
    rows = [row for page in sorted(manual().glob("*.html")) for row in _figures(page)]
    with open(table, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("image", "caption", "page"))
        writer.writerows(rows)
    return len(rows)


def _figures(page: Path) -> Iterator[tuple[str, str, str]]:
    """(picture, its caption or else the title of its figure, page)."""
    reader = _Figures()
    reader.feed(page.read_text(encoding="utf-8", errors="replace"))
    for picture, caption, title in reader.found:
        text = " ".join((caption or title).split())
        if text:
            yield picture, re.sub(r"^Figure [\w.]+\.\s+", "", text), page.name


class _Figures(HTMLParser):
    """Collects (picture, caption, title of the figure) of each `mediaobject` of a DocBook page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str, str]] = []
        self._open: list[str] = []  # classes of the open <div> and <p>
        self._title, self._caption = "", ""
        self._pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("div", "p"):
            kind = given.get("class") or ""
            self._open.append(kind)
            if kind == "figure":
                self._title = ""
            elif kind == "mediaobject":
                self._caption, self._pictures = "", []
        elif tag == "img" and "mediaobject" in self._open:
            self._pictures.append(given.get("src") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("div", "p") or not self._open:
            return
        kind = self._open.pop()
        if kind == "mediaobject":
            self.found += [(picture, self._caption, self._title) for picture in self._pictures]
        elif kind == "figure":
            self._title = ""

    def handle_data(self, data: str) -> None:
        if "caption" in self._open and "mediaobject" in self._open:
            self._caption += data
        elif self._open and self._open[-1] == "title" and "figure" in self._open:
            self._title += data


def build(more: list[str]) -> int:
    """Build each source as a user would, and print rows in, kept, rejected by reason, seconds."""
    if not SOURCES.is_dir():
        sys.exit("there is nothing to build yet: run `fetch` and `prepare` first")
    print("| set | source | rows in | kept | rejected | shards | seconds |\n|---|---|---|---|---|---|---|", flush=True)
    rows = [
        _build("openclipart", SOURCES / "openclipart.jsonl", ["--image-root", str(clip_art()), *more]),
        _build("tuxpaint", SOURCES / "tuxpaint", more),
        _build("gimp-help", SOURCES / "gimp_help.csv", ["--image-root", str(manual()), *more]),
    ]
    return 0 if all(rows) else 1


def _build(name: str, source: Path, more: list[str]) -> bool:
    """One build in a process of its own, and its row of the table; whether it ended well."""
    out = SOURCES / "built" / name
    shutil.rmtree(out, ignore_errors=True)
    log = out.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "pretrain.cli.main", "data", "build", str(source), str(out)]
    line += ["--mode", "keep-ratio", "--size", "256", "--shard-size", "1000", *more]
    start = time.monotonic()
    with open(log, "wb") as into:
        code = subprocess.run(line, cwd=ROOT, stdout=into, stderr=subprocess.STDOUT, timeout=3600).returncode
    seconds = time.monotonic() - start
    if code:
        print(f"| {name} | {source.name} | | | exit code {code}, see {log} | | {seconds:.1f} |", flush=True)
        return False
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    totals, shards = manifest["totals"], manifest["shards"]["count"]
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(totals["rejected"].items())) or "0"
    cells = (name, source.name, totals["rows"], totals["kept"], rejected, shards, f"{seconds:.1f}")
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fetch", "prepare", "build"))
    parser.add_argument("--workers", type=int, help="of looksay (none: one a core)")
    parser.add_argument(
        "--set", action="append", default=[], help="more settings for looksay, for example dedup.near=true"
    )
    args = parser.parse_args()
    if args.what == "build":
        more = [] if args.workers is None else ["--workers", str(args.workers)]
        return build([*more, *(word for setting in args.set for word in ("--set", setting))])
    fetch() if args.what == "fetch" else prepare()
    return 0


if __name__ == "__main__":
    sys.exit(main())
