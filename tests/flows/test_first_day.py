"""The first day on eight GPUs, in small: LLaVA-1.5's two builds and two stages as packaged, with tiny widths and data."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configs.data import TemplateConfig
from configs.listing import find_recipes, header_of
from configs.load import load_recipe
from data_pipeline.stream.chat import Chat
from data_pipeline.stream.tokenizer import train_tokenizer
from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint
from pretrain.cli.main import main
from tests.data_pipeline.conftest import fill
from tests.families.published import TEXT, VISION, randomise
from tests.flows.conftest import no_ray

STAGES = ["llava15_7b_caption", "llava15_7b_sft"]
SPECIALS = TemplateConfig(bos="<s>", user="", assistant="", end="</s>", image="<image>", pad="<pad>")
"""What Vicuna's tokenizer has as tokens; `USER: ` is text."""
TINY = [
    "data.packing={length: 320, rows_per_step: 4, window_steps: 2}",
    "stage.steps=2",
    "optim.warmup_steps=1",
    "parallel={ranks: 1, zero: 3, precision: fp32, rows_per_rank: 2}",
    "log.to=[]",
]


@pytest.mark.parametrize("name", STAGES)
def test_the_time_of_the_header_is_what_the_estimate_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    header = header_of(find_recipes()[name])
    hours, command = re.findall(r"ESTIMATE ([\d.]+) h \(`looksay (estimate [^`]*)`", header)[0]
    assert main([*command.split(), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["memory"]["fits"]
    # One figure of the header, and room for a cost model that gets better.
    assert said["days"] * 24 == pytest.approx(float(hours), rel=0.2)


@pytest.mark.parametrize("name", STAGES)
def test_the_parts_are_those_of_the_published_model(name: str, transformers: Any) -> None:
    """All but how a picture is brought into its square, which the paper's training and its published processor do each its way."""
    from pretrain.model.hf.llava import model_of

    text = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    published = model_of({"model_type": "llava", "vision_config": {}, "text_config": text})
    ours = load_recipe(name).model
    encoder, decoder = (part.model_copy(update={"weights": None}) for part in (ours.encoder, ours.decoder))
    assert (encoder, ours.projector, decoder) == (published.encoder, published.projector, published.decoder)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists and pictures laid out as the recipes' sources say; half of the pictures in the second folder only."""
    folder = tmp_path_factory.mktemp("first_day")
    pretrain, mix = folder / "data" / "LLaVA-Pretrain", folder / "data"
    fill(pretrain / "images" / "00453", 8)
    fill(mix / "coco" / "train2017", 5)
    listed = [
        {"id": f"{n}", "image": f"00453/p{n:03d}.png", "blip_caption": f"a picture of number {n}", "url": "http://x/y"}
        for n in range(8)
    ]
    (pretrain / "blip_laion_cc_sbu_558k_meta.json").write_text(json.dumps(listed))
    talks: list[dict[str, Any]] = []
    for number in range(6):
        asked = {"from": "human", "value": "<image>\nWhat is it?"}
        talks.append({"id": str(number), "image": f"coco/train2017/p{number:03d}.png"})
        talks[-1]["conversations"] = [asked, {"from": "gpt", "value": "Noise."}]
    said = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello! " + "word " * 200}]
    talks.append({"id": "text", "conversations": said})
    (mix / "llava_v1_5_mix665k.json").write_text(json.dumps(talks))
    return folder


def save_parts(transformers: Any) -> None:
    """CLIP's tower, Vicuna and its tokenizer where the recipes look for them, in small."""
    tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))
    language = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))
    for number, (model, folder) in enumerate(((tower, "clip"), (language, "runs/start/vicuna-7b"))):
        randomise(model, number)
        model.save_pretrained(folder)
    train_tokenizer(["runs/llava15/mix665k"], "runs/start/tokenizer", 300, SPECIALS)


def small_model(name: str) -> dict[str, Any]:
    """The packaged recipe's model with the widths of the small parts."""
    model: dict[str, Any] = load_recipe(name).model.model_dump(mode="json")
    sizes = {"width": "hidden_size", "mlp_width": "intermediate_size", "heads": "num_attention_heads"}
    model["encoder"] |= {ours: VISION[theirs] for ours, theirs in {**sizes, "depth": "num_hidden_layers"}.items()}
    model["encoder"] |= {"weights": "clip", "image_size": VISION["image_size"]}
    model["resolution"]["size"] = VISION["image_size"]
    more = {"layers": "num_hidden_layers", "kv_heads": "num_key_value_heads", "vocab_size": "vocab_size"}
    model["decoder"] |= {ours: TEXT[theirs] for ours, theirs in {**sizes, **more}.items()}
    return model


def trains(name: str, run: str) -> str:
    """Two steps of the packaged recipe in small. What its ranks said."""
    sets = [word for value in (f"model={json.dumps(small_model(name))}", *TINY) for word in ("--set", value)]
    assert main(["train", name, "--run", run, *sets]) == 0
    losses = [json.loads(line)["loss"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    return Path(run, "logs", "rank-0.log").read_text()


def changed(before: str, after: str) -> set[str]:
    """Parts with a tensor that is another one in run `after`."""
    first, second = (Checkpoint(found.folder, found.frozen) for found in (find(before), find(after)))
    return {name.split(".")[0] for name in first.names() if not first.tensor(name).equal(second.tensor(name))}


@pytest.mark.slow
def test_two_builds_and_two_stages_from_published_parts(
    shop: Path, transformers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    for name, rows, kept in (("llava15_lcs558k", 8, 8), ("llava15_mix665k", 7, 6)):
        with no_ray():
            assert main(["data", "build", name, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["rows"], told["kept"]) == (rows, kept), "one conversation's picture is not there"
    save_parts(transformers)
    said = trains("llava15_7b_caption", "runs/llava15_7b_caption")
    assert "tensors from clip" in said and "tensors from runs/start/vicuna-7b" in said
    trains("llava15_7b_sft", "runs/llava15_7b_sft")
    assert changed("runs/llava15_7b_caption", "runs/llava15_7b_sft") == {"projector", "decoder"}
    run = Checkpoint(find("runs/llava15_7b_caption").folder, find("runs/llava15_7b_caption").frozen)
    head = transformers.LlamaForCausalLM.from_pretrained("runs/start/vicuna-7b").lm_head.weight
    assert run.tensor("decoder.head.weight")[: len(head)].equal(head.float().detach()), (
        "captions train the projector only"
    )
    assert (
        main(["generate", "runs/llava15_7b_sft", "--image", "data/coco/train2017/p000.png", "--prompt", "What?"]) == 0
    )


def test_captions_are_learned_bare_and_answers_in_a_conversation(tmp_path: Path, shop: Path) -> None:
    """The two published templates: `plain` for captions, Vicuna's with its system text for conversations."""
    from data_pipeline.sample import Conversation, Message
    from tests.data_pipeline.stream.test_chat import shown

    with pytest.MonkeyPatch.context() as patch, no_ray():
        patch.chdir(shop)
        if not Path("runs/llava15/mix665k/manifest.json").exists():
            assert main(["data", "build", "llava15_mix665k"]) == 0
        train_tokenizer(["runs/llava15/mix665k"], str(tmp_path), 300, SPECIALS)
    caption, sft = (Chat(str(tmp_path), load_recipe(name).data.template) for name in STAGES)
    plain = caption.encode(Conversation("a cat", None, {}), 1)
    assert shown(caption, plain) == "<s><image>[a cat\n]"
    asked = Conversation(None, (Message("user", "<image>\nWhat?"), Message("assistant", "A cat.")), {})
    text = shown(sft, sft.encode(asked, 1))
    assert text.startswith("<s>A chat between a curious user"), text
    assert text.endswith("questions. USER: <image>\nWhat? ASSISTANT:[A cat.</s>]"), text
