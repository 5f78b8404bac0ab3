"""Published runs beside `looksay estimate`'s arithmetic, with the constants of the packaged sites as they are.

python benchmarks/published_runs.py      the tables of docs/benchmarks/published-runs.md

Nothing here is fitted: the sites were committed before (the page names the commits). Where a source does not say what is
needed, `assumed` does. A decoder of two MLP matrices of 4 h is written as three of 8 h / 3.
"""

from dataclasses import dataclass
from typing import Any

from cluster.cost.estimate import Estimator, Setting
from cluster.cost.load import Load, rows_of
from cluster.cost.segments import stretch_of
from configs.load import load_recipe, resolve
from configs.site import load_site

NO_VIT = {"type": "native_vit", "patch": 14, "width": 8, "depth": 1, "heads": 1, "mlp_width": 8}
CLIP_L = {"type": "native_vit", "patch": 14, "width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096}


@dataclass(frozen=True)
class Run:
    """One published run. `steps` is 1 where a step's time is published."""

    name: str
    site: str
    source: str
    published: float
    unit: str
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    vocabulary: int
    train: tuple[str, ...]
    setting: Setting
    row: Load
    length: int
    rows_per_step: int
    steps: float
    assumed: str = ""
    merge: int = 1


def row(length: int, real: int, patches: int, labels: int, visual: int = 0, segments: int = 1) -> Load:
    """A row of `segments` equal samples and `patches` patches in one view for each."""
    views = [patches // segments] * segments if patches else [4]
    return Load(
        text=stretch_of([real // segments] * segments, length, causal=True),
        patches=stretch_of(views, sum(views), causal=False),
        cells=sum(views),
        outputs=visual,
        views=len(views),
        visual=visual,
        labels=labels,
        pictures=segments if patches else 0,
        samples=segments,
    )


def decoder(layers: int, width: int, heads: int, mlp: int, kv: int | None = None, tied: bool = False) -> dict[str, Any]:
    shape = {"layers": layers, "width": width, "heads": heads, "mlp_width": mlp, "tied_head": tied}
    return shape if kv is None else {**shape, "kv_heads": kv}


def megatron(name: str, layers: int, width: int, heads: int, tp: int, gpus: int, batch: int, tflops: float) -> Run:
    """A row of table 1 of arXiv 2104.04473 without pipeline parallelism; its FLOPs count recomputation."""
    flops = 96 * batch * 2048 * layers * width**2 * (1 + 2048 / (6 * width) + 51200 / (16 * layers * width))
    return Run(
        f"Megatron GPT {name}, {gpus} A100",
        "a100-8x",
        f"arXiv 2104.04473 table 1: {tflops} TFLOP/s a GPU",
        flops / gpus / (tflops * 1e12),
        "s",
        NO_VIT,
        decoder(layers, width, heads, round(8 * width / 3 / 32) * 32, tied=True),
        51200,
        ("decoder",),
        Setting(gpus, tp, 1, 4, recompute=True),
        row(2048, 2048, 0, 2048),
        2048,
        batch,
        1,
        "micro-batch 4, ZeRO-1 in place of plain data parallelism",
    )


VICUNA, QWEN3_8B = decoder(32, 4096, 32, 11008), decoder(36, 4096, 32, 12288, 8)
VICUNA_13B = decoder(40, 5120, 40, 13824)
LLAVA = "LLaVA README (haotian-liu/LLaVA), section Train"
RUNS = [
    Run(
        "LLaVA-1.5 7B, alignment",
        "a100-8x",
        f"{LLAVA}: around 3.5 h on 8 x A100",
        3.5,
        "h",
        CLIP_L,
        VICUNA,
        32000,
        ("projector",),
        Setting(8, 1, 2, 32, recompute=True),
        row(640, 606, 576, 28, 576),
        640,
        256,
        558_128 / 256,
        "captions of 28 tokens, batches padded to 640 positions",
    ),
    Run(
        "LLaVA-1.5 7B, instruction tuning",
        "a100-8x",
        f"{LLAVA}: around 10 h on 8 x A100 40 GB",
        10.0,
        "h",
        CLIP_L,
        VICUNA,
        32000,
        ("projector", "decoder"),
        Setting(8, 1, 3, 16, recompute=True),
        row(1000, 900, 576, 180, 576),
        1000,
        128,
        665_298 / 128,
        "900 tokens a sample, batches padded by 10 %",
    ),
    Run(
        "LLaVA-1.5 13B, alignment",
        "a100-8x",
        f"{LLAVA}: around 5.5 h on 8 x A100",
        5.5,
        "h",
        CLIP_L,
        VICUNA_13B,
        32000,
        ("projector",),
        Setting(8, 1, 2, 32, recompute=True),
        row(640, 606, 576, 28, 576),
        640,
        256,
        558_128 / 256,
        "captions of 28 tokens, batches padded to 640 positions",
    ),
    Run(
        "LLaVA-1.5 13B, instruction tuning",
        "a100-8x",
        f"{LLAVA}: around 20 h on 8 x A100",
        20.0,
        "h",
        CLIP_L,
        VICUNA_13B,
        32000,
        ("projector", "decoder"),
        Setting(8, 1, 3, 16, recompute=True),
        row(1000, 900, 576, 180, 576),
        1000,
        128,
        665_298 / 128,
        "900 tokens a sample, batches padded by 10 %",
    ),
    Run(
        "LLaVA-OneVision-1.5 8B, mid-training",
        "a100-8x",
        "its README: 85 M samples in 3.7 days on 128 A800, rows of 8k, packing compression 11",
        3.7 * 24,
        "h",
        CLIP_L,
        QWEN3_8B,
        151936,
        ("encoder", "projector", "decoder"),
        Setting(128, 1, 1, 1, recompute=True),
        row(8192, 8192, 4 * 6000, 2000, 6000, 11),
        8192,
        256,
        85e6 / 11 / 256,
        "11 samples a row, 6,000 of 8,192 positions visual, 256 rows a step; an A800's NVLink is slower than the site's",
        2,
    ),
    megatron("1.7B", 24, 2304, 24, 1, 32, 512, 137),
    megatron("3.6B", 30, 3072, 32, 2, 64, 512, 138),
    megatron("7.5B", 36, 4096, 32, 4, 128, 512, 142),
    megatron("18.4B", 40, 6144, 48, 8, 256, 1024, 135),
    Run(
        "Megatron GPT 22B, full recomputation",
        "a100-8x",
        "arXiv 2205.05198 table 5: 1.42 s a step of 4 rows",
        1.42,
        "s",
        NO_VIT,
        decoder(48, 6144, 64, 16384, tied=True),
        51200,
        ("decoder",),
        Setting(8, 8, 1, 4, recompute=True),
        row(2048, 2048, 0, 2048),
        2048,
        4,
        1,
    ),
    Run(
        "Megatron GPT 22B, selective recomputation",
        "a100-8x",
        "arXiv 2205.05198 table 5: 1.10 s a step of 4 rows (MFU 41.5 %)",
        1.10,
        "s",
        NO_VIT,
        decoder(48, 6144, 64, 16384, tied=True),
        51200,
        ("decoder",),
        Setting(8, 8, 1, 4),
        row(2048, 2048, 0, 2048),
        2048,
        4,
        1,
        "costed without any recomputation, which is nearest",
    ),
    Run(
        "torchtitan Llama 3.1 8B, 8 H100",
        "h100-8x",
        "arXiv 2410.06511 table 1: 6,258 tokens/s a GPU, FSDP without compile",
        2 * 8192 / 6258,
        "s",
        NO_VIT,
        decoder(32, 4096, 32, 14336, 8),
        128256,
        ("decoder",),
        Setting(8, 1, 3, 2),
        row(8192, 8192, 0, 8192),
        8192,
        16,
        1,
        "its selective checkpointing costed as none",
    ),
]


FOUNDRY = "mosaicml/llm-foundry, scripts/train/benchmarking/README.md"
MPT = {  # layers, width, heads
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16), "3b": (32, 2560, 20),
    "7b": (32, 4096, 32), "13b": (40, 5120, 40), "30b": (48, 7168, 56), "70b": (80, 8192, 64),
}  # fmt: skip
FOUNDRY_ROWS = """
70b 512 h100 8 4096 515636 3 yes
70b 256 h100 8 2048 265149 3 yes
70b 128 h100 8 1024 135490 3 yes
30b 512 h100 8 4096 1083366 3 yes
30b 256 h100 8 2048 550022 3 yes
30b 128 h100 8 1024 281491 3 yes
13b 512 h100 16 8192 2535811 3 yes
13b 256 h100 16 4096 1277214 3 yes
13b 128 h100 16 2048 650264 3 yes
7b 512 h100 6 3072 4951479 3 no
7b 256 h100 6 1536 2590548 3 no
7b 128 h100 6 768 1340830 3 no
3b 512 h100 8 4096 11092218 2 no
3b 256 h100 8 2048 5829686 2 no
3b 128 h100 8 1024 2998098 2 no
1b 512 h100 12 6144 20396905 2 no
1b 256 h100 12 3072 10894207 2 no
1b 128 h100 12 1536 5647854 2 no
70b 64 h100 8 2048 66523 3 yes
70b 32 h100 2 1024 28242 3 yes
30b 32 h100 14 1344 73860 3 yes
30b 16 h100 10 480 36209 3 yes
30b 8 h100 3 504 16022 3 yes
13b 64 h100 2 128 307209 3 no
13b 32 h100 2 64 153960 3 no
13b 16 h100 2 32 76280 3 no
13b 8 h100 2 16 38336 3 no
7b 8 h100 6 48 85144 3 no
3b 64 h100 6 1152 1441663 3 no
3b 32 h100 6 576 736701 3 no
3b 16 h100 10 480 386285 3 no
1b 64 h100 20 1280 2841754 3 no
1b 32 h100 20 640 1444183 3 no
1b 16 h100 20 320 736596 3 no
1b 8 h100 14 112 363645 3 no
760m 32 h100 24 768 2175091 3 no
760m 16 h100 24 384 1096819 3 no
760m 8 h100 24 384 505177 3 no
30b 8 a100 3 504 7330 3 yes
13b 8 a100 2 48 18097 3 no
7b 8 a100 6 96 37130 3 no
3b 8 a100 10 160 86491 3 no
1b 8 a100 14 448 164109 3 no
760m 8 a100 24 384 259472 3 no
350m 8 a100 32 512 470263 3 no
125m 8 a100 40 640 1142641 3 no
125m 8 a100 32 512 1133901 3 no
"""
"""Every row of its tables with a sequence of 2,048 in bf16 on 80 GB GPUs: model, GPUs, kind, rows of a micro-batch, rows of
a step, tokens per second, ZeRO stage (FULL_SHARD 3, SHARD_GRAD_OP 2), activation checkpointing."""


def foundry(line: str) -> Run:
    """A row of llm-foundry's tables: MPT (two MLP matrices of 4 h, tied head, 50,368 words) under FSDP."""
    name, gpus, kind, micro, batch, rate, zero, again = line.split()
    layers, width, heads = MPT[name]
    return Run(
        f"MPT {name}, {gpus} {kind.upper()}",
        f"{kind}-8x",
        f"{FOUNDRY}: {int(rate):,} tokens/s",
        int(batch) * 2048 / int(rate),
        "s",
        NO_VIT,
        decoder(layers, width, heads, round(8 * width / 3 / 32) * 32, tied=True),
        50368,
        ("decoder",),
        Setting(int(gpus), 1, int(zero), int(micro), recompute=again == "yes"),
        row(2048, 2048, 0, 2048),
        2048,
        int(batch),
        1,
    )


NEW = [foundry(line) for line in FOUNDRY_ROWS.strip().splitlines()]


def estimator_of(run: Run) -> Estimator:
    tree = load_recipe("tiny_train").model_dump(mode="json")
    tree["model"] = {
        "encoder": run.encoder,
        "projector": {"type": "pixel_shuffle_mlp", "factor": 2} if run.merge == 2 else {"type": "mlp"},
        "decoder": run.decoder,
    }
    tree["data"]["packing"] |= {"length": run.length, "rows_per_step": run.rows_per_step}
    tree["stage"]["train"] = dict.fromkeys(run.train, 1e-4)
    tree["parallel"] |= {"tp": run.setting.tp, "zero": run.setting.zero, "rows_per_rank": run.setting.rows_per_rank}
    recipe = resolve(run.name, [("published", tree)])
    return Estimator(recipe, load_site(run.site).hardware, run.vocabulary, rows_of([run.row], run.source))


def compare(runs: list[Run]) -> list[float]:
    """Print a table; returns the errors."""
    print("| run | source | published | estimate | error | fits | MFU | assumed |")
    print("|---" * 8 + "|")
    errors = []
    for run in runs:
        found = estimator_of(run).run(run.setting)
        total = found.seconds.total * run.steps / (3600 if run.unit == "h" else 1)
        errors.append(total / run.published - 1)
        print(
            f"| {run.name} | {run.source} | {run.published:.3g} {run.unit} | {total:.3g} {run.unit} | "
            f"{errors[-1]:+.0%} | {'yes' if found.fits else f'no, {found.used / 1e9:.0f} GB'} | "
            f"{found.mfu:.1%} | {run.assumed or '-'} |"
        )
    return errors


def compare_published() -> None:
    for name, runs in (("Looked at before", RUNS), ("Looked up after the sites were frozen", NEW)):
        print(f"\n{name}\n")
        errors = [abs(error) for error in compare(runs)]
        within = [sum(error <= limit for error in errors) for limit in (0.2, 0.3)]
        print(f"\n{within[1]} of {len(errors)} within 30 %, {within[0]} within 20 %")


if __name__ == "__main__":
    compare_published()
