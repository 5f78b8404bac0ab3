"""How other systems pack: the part of packing.py that runs in the peers' environment.

    PEERS/bin/python packing_peers.py NAME SET.npz OUT.npz --length L

SET.npz has `tokens` and `vision` in the order in which samples are drawn; OUT.npz gets `sample`, `pack` (rows in the order
in which the peer emits them) and `seconds`, of the packing loop alone. `binpacking` and `grain` are the libraries that
ms-swift and torchtitan call; the others are written again here, short, after the sources named at each: same rule, same
default buffer. What an epoch leaves in a buffer is packed by the same rule, so that none of them drops a sample.
"""

import argparse
import bisect
import heapq
import time
from collections.abc import Callable, Iterator

import numpy as np

Rows = Iterator[list[int]]


def next_fit(tokens: list[int], vision: list[int], length: int) -> Rows:
    """Megatron-core `data_schedule.py` (dp_balanced), ms-swift `sequential`."""
    row: list[int] = []
    room = length
    for i, size in enumerate(tokens):
        if size > room:
            yield row
            row, room = [], length
        row.append(i)
        room -= size
    yield row


def greedy_knapsack(tokens: list[int], length: int, chosen: list[int]) -> Rows:
    """LLaMA-Factory `processor_utils.py`, copied by Megatron-LM: for each row again and again the largest that fits."""
    chosen = sorted(chosen, key=tokens.__getitem__)
    sizes = [tokens[i] for i in chosen]
    while sizes:
        row, room = [], length
        while (at := bisect.bisect(sizes, room)) > 0:
            room -= sizes.pop(at - 1)
            row.append(chosen.pop(at - 1))
        yield row


def in_blocks(size: int) -> Callable[[list[int], list[int], int], Rows]:
    """The greedy knapsack on a buffer of `size` samples at a time."""

    def run(tokens: list[int], vision: list[int], length: int) -> Rows:
        for start in range(0, len(tokens), size):
            yield from greedy_knapsack(tokens, length, list(range(start, min(start + size, len(tokens)))))

    return run


def swift(tokens: list[int], vision: list[int], length: int) -> Rows:
    """ms-swift `dataset/packing.py`: the library `binpacking` on 1000 samples; the last row goes into the next 1000."""
    import binpacking

    kept: list[tuple[int, int]] = []
    for start in range(0, len(tokens), 1000):
        items = kept + [(i, tokens[i]) for i in range(start, min(start + 1000, len(tokens)))]
        rows = binpacking.to_constant_volume(items, length, weight_pos=1)
        done = start + 1000 >= len(tokens)
        rows, kept = (rows, []) if done else (rows[:-1], rows[-1])
        yield from ([i for i, _ in row] for row in rows)


def veomni(tokens: list[int], vision: list[int], length: int) -> Rows:
    """VeOmni `dynamic_batching.py`: in order through a buffer of 500, whatever still fits."""
    buffer: list[int] = []
    following = 0
    while buffer or following < len(tokens):
        while len(buffer) < 500 and following < len(tokens):
            buffer.append(following)
            following += 1
        row, kept, room = [], [], length
        for i in buffer:
            if room > 0 and tokens[i] <= room:
                row.append(i)
                room -= tokens[i]
            else:
                kept.append(i)
        buffer = kept
        yield row


def molmo2(tokens: list[int], vision: list[int], length: int) -> Rows:
    """Molmo2 `dynamic_packer.py`: knapsack by dynamic program, buffer of 32, tokens in steps of L/512.

    Its second constraint, pictures, is left wide open: fuller rows, and less work, than with it.
    """
    step = max(1, length // 512)
    most = -(-length // step)
    buffer: list[int] = []
    for following in range(len(tokens) + 32):
        if following < len(tokens) and len(buffer) < 32:
            buffer.append(following)
            continue
        if not buffer:
            break
        table = np.zeros((len(buffer) + 1, most + 1), np.float32)
        sizes = [-(-tokens[i] // step) for i in buffer]
        for item, (i, size) in enumerate(zip(buffer, sizes, strict=True), 1):
            table[item] = table[item - 1]
            np.maximum(table[item, size:], table[item - 1, : most + 1 - size] + tokens[i], out=table[item, size:])
        row, room = [], most
        for item in range(len(buffer), 0, -1):
            if table[item, room] != table[item - 1, room] and sizes[item - 1] <= room:
                row.append(buffer[item - 1])
                room -= sizes[item - 1]
        taken = set(row)
        buffer = [i for i in buffer if i not in taken] + ([following] if following < len(tokens) else [])
        yield row


def grain(tokens: list[int], vision: list[int], length: int) -> Rows:
    """torchtitan's `mm_datasets.py`: Grain's own first fit over 8 bins."""
    from grain import MapDataset
    from grain.experimental import FirstFitPackIterDataset

    # A sample's number stands in the place of each of its tokens, so that a row says what is in it.
    source = MapDataset.source([np.full(size, i, np.int32) for i, size in enumerate(tokens)])
    samples = source.map(lambda values: {"tokens": values}).to_iter_dataset()
    for row in FirstFitPackIterDataset(samples, length_struct={"tokens": length}, num_packing_bins=8, seed=0):
        part = np.asarray(row["tokens_segment_ids"])
        held = np.asarray(row["tokens"])[part > 0]
        if len(held):
            yield held[np.flatnonzero(np.diff(held, prepend=-1))].tolist()


def worst_fit(tokens: list[int], vision: list[int], length: int) -> Rows:
    """Automodel `neat_packing_vlm.py`: worst fit, longest first, over the whole set; rows sorted by vision."""
    heap: list[tuple[int, int]] = []
    rows: list[list[int]] = []
    for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        if heap and -heap[0][0] >= tokens[i]:
            room, number = heap[0]
            rows[number].append(i)
            heapq.heapreplace(heap, (room + tokens[i], number))
        else:
            rows.append([i])
            heapq.heappush(heap, (tokens[i] - length, len(rows) - 1))
    yield from sorted(rows, key=lambda row: sum(vision[i] for i in row))


PEERS: dict[str, Callable[[list[int], list[int], int], Rows]] = {
    "next fit": next_fit,
    "Megatron multimodal, buffer 100": in_blocks(100),
    "LLaMA-Factory, 1000": in_blocks(1000),
    "LoongForge packs, 10000": in_blocks(10_000),
    "ms-swift (binpacking), 1000": swift,
    "VeOmni, 500": veomni,
    "Molmo2, 32": molmo2,
    "torchtitan (grain), 8 bins": grain,
    "Automodel, whole set, sorted": worst_fit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(PEERS))
    parser.add_argument("lengths")
    parser.add_argument("out")
    parser.add_argument("--length", type=int, required=True)
    args = parser.parse_args()
    data = np.load(args.lengths, allow_pickle=False)
    tokens, vision = data["tokens"].tolist(), data["vision"].tolist()
    list(PEERS[args.name](tokens[:200], vision[:200], args.length))  # imports and first calls do not count
    start = time.perf_counter()
    rows = list(PEERS[args.name](tokens, vision, args.length))
    seconds = time.perf_counter() - start
    pack = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    np.savez(args.out, sample=np.concatenate([np.asarray(row, np.int64) for row in rows]), pack=pack, seconds=seconds)


if __name__ == "__main__":
    main()
