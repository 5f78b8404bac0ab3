"""Attention inside segments: no sample of a row sees another. One function chooses how.

Legend: T flat positions (rows joined), H query heads, K key/value heads, D head size, S segments, M longest.
Backends, the same result to rounding:
- `padded`: segments of like length gathered to [S, M], one causal SDPA call per bucket; right padding needs no mask,
  because a causal query never looks right. Fastest for rows of many short segments on a CPU.
- `segments`: one SDPA call per segment; no waste, for few long segments.
- `dense`: one block mask over all positions; the reference.
"""

from dataclasses import dataclass
from functools import cached_property
from math import pi

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.decoder import RopeScaling
from pretrain.mesh import attention_dtype

BUCKET_WASTE = 1.3
"""A bucket's longest segment is at most this much longer than its shortest (measured optimum 1.2-1.5 on a CPU)."""


@dataclass(frozen=True)
class Bucket:
    """Segments served by one call. `gather` [S, M] flat positions (pads point at 0)."""

    gather: Tensor
    scatter: Tensor
    """[real] index into the flattened [S * M] of each real position, in the order of `into`."""
    into: Tensor
    """[real] flat position that it returns to."""


class Segments:
    """The segments of one batch, prepared once and shared by all layers.

    Args:
        bounds: [S, 2] flat (start, end), ascending and disjoint.
        total: T.
        causal: decoder True, encoder False.
        backend: see the module; "auto" chooses.
        prefixes: [S] flat end of what sees itself both ways in each segment (prefix-LM); none: nothing does.
    """

    def __init__(
        self,
        bounds: np.ndarray,
        total: int,
        causal: bool,
        device: torch.device,
        backend: str = "auto",
        prefixes: np.ndarray | None = None,
    ):
        self.bounds = np.asarray(bounds, np.int64).reshape(-1, 2)
        self.total, self.causal, self.device = total, causal, device
        self.prefixes = self.bounds[:, 0] if prefixes is None else np.asarray(prefixes, np.int64)
        if backend == "auto":
            lengths = self.bounds[:, 1] - self.bounds[:, 0]
            backend = "padded" if len(lengths) == 0 or lengths.mean() < 512 else "segments"
        if backend == "padded" and (self.prefixes > self.bounds[:, 0]).any():
            backend = "segments"  # a prefix looks right: padding would be seen
        self.backend = backend

    @cached_property
    def buckets(self) -> list[Bucket]:
        lengths = self.bounds[:, 1] - self.bounds[:, 0]
        order = np.argsort(lengths, kind="stable")
        groups: list[list[int]] = []
        for index in order:
            first = lengths[groups[-1][0]] if groups else -1
            # Padding needs the causal mask: without it only equal lengths share a call.
            fits = lengths[index] <= max(first * BUCKET_WASTE, 8) if self.causal else lengths[index] == first
            if not groups or not fits:
                groups.append([])
            groups[-1].append(int(index))
        return [self._bucket(group, lengths) for group in groups]

    def _bucket(self, group: list[int], lengths: np.ndarray) -> Bucket:
        longest = int(lengths[group].max())
        steps = np.arange(longest)
        mask = steps[None, :] < lengths[group][:, None]
        gather = np.where(mask, self.bounds[group, 0][:, None] + steps[None, :], 0)
        flat = np.flatnonzero(mask)

        def put(x: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)

        return Bucket(put(gather), put(flat), put(gather.reshape(-1)[flat]))

    @cached_property
    def dense_mask(self) -> Tensor:
        """[T, T] True where a query (row) may look. Positions outside any segment look at themselves only."""
        owner = np.full(self.total, -1)
        for number, (start, end) in enumerate(self.bounds):
            owner[start:end] = number
        mask = (owner[:, None] == owner[None, :]) & (owner[:, None] >= 0)
        if self.causal:
            seen = np.tri(self.total, dtype=bool)
            for (start, _), prefix in zip(self.bounds, self.prefixes, strict=True):
                seen[start:prefix, start:prefix] = True
            mask &= seen
        return torch.from_numpy(mask | np.eye(self.total, dtype=bool)).to(self.device)


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Scaled dot-product attention inside segments.

    Args:
        q: [T, H, D]. k, v: [T, K, D], H a multiple of K.
    Returns:
        [T, H, D]; zeros at positions outside any segment (not for `dense`, where they see themselves).
    """
    if k.shape[1] != q.shape[1]:
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    if segments.backend == "dense":
        return _call(q[None], k[None], v[None], segments.dense_mask, False)[0]
    out = q.new_zeros(q.shape)
    if segments.backend == "segments":
        parts, index = [], []
        for (start, end), prefix in zip(segments.bounds.tolist(), segments.prefixes.tolist(), strict=True):
            whole, middle = slice(start, end), max(start, prefix) if segments.causal else start
            if middle > start:
                ahead = slice(start, middle)
                parts.append(_call(q[None, ahead], k[None, ahead], v[None, ahead], None, False)[0])
            if end > middle:
                rest = slice(middle, end)
                mask = _bottom_right(end - middle, end - start, q.device) if middle > start else None
                causal = segments.causal and mask is None
                parts.append(_call(q[None, rest], k[None, whole], v[None, whole], mask, causal)[0])
            index.append(torch.arange(start, end, device=q.device))
        return out.index_put((torch.cat(index),), torch.cat(parts)) if parts else out + 0 * (q + k + v)
    parts, index = [], []
    for bucket in segments.buckets:
        part = _call(q[bucket.gather], k[bucket.gather], v[bucket.gather], None, segments.causal)
        parts.append(part.reshape(-1, *part.shape[2:])[bucket.scatter])
        index.append(bucket.into)
    return out.index_put((torch.cat(index),), torch.cat(parts)) if parts else out + 0 * (q + k + v)


def attend_views(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries of each view on its own keys: [V, Q, H, D] on [V, N, K, D] -> [V, Q, H, D]; H a multiple of K."""
    if k.shape[2] != q.shape[2]:
        repeat = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(repeat, 2), v.repeat_interleave(repeat, 2)
    return _call(q, k, v, None, False)


def attend_cached(q: Tensor, k: Tensor, v: Tensor, prefix: bool = False) -> Tensor:
    """Causal attention of the last N positions over all L so far: [S, N, H, D] on [S, L, K, D] -> [S, N, H, D].

    SDPA's `is_causal` would mask top-left; with a cache the mask must be bottom-right, so it is given.

    Args:
        prefix: where N = L, the positions see each other both ways (the prompt of a prefix-LM).
    """
    if k.shape[2] != q.shape[2]:
        repeat = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(repeat, 2), v.repeat_interleave(repeat, 2)
    count, total = q.shape[1], k.shape[1]
    if count == total:
        return _call(q, k, v, None, not prefix)
    return _call(q, k, v, None if count == 1 else _bottom_right(count, total, q.device), False)


def _bottom_right(count: int, total: int, device: torch.device) -> Tensor:
    """[count, total] True where the last `count` of `total` positions may look."""
    return torch.ones(count, total, dtype=torch.bool, device=device).tril(total - count)


def _call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """[S, M, H, D] each -> [S, M, H, D]. `causal` only with as many queries as keys (SDPA masks top-left)."""
    dtype, math = q.dtype, attention_dtype(q.dtype)
    q, k, v = (part.to(math).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2).to(dtype)


def rope_table(positions: Tensor, dim: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, Tensor]:
    """cos, sin [T, dim / 2] fp32 of rotary embedding (Su et al. 2021) for [T] positions."""
    inverse = theta ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    if scaling is not None:
        inverse = slowed(inverse, scaling)
    angles = positions.float()[:, None] * inverse[None, :]
    return angles.cos(), angles.sin()


def slowed(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    """[D / 2] radians a position, slower: linear interpolation (arXiv 2306.15595), or Llama 3.1's of the slow ones alone."""
    if scaling.type == "linear":
        return inverse / scaling.factor
    turns = scaling.length * inverse / (2 * pi)
    kept = ((turns - scaling.low_factor) / (scaling.high_factor - scaling.low_factor)).clamp(0, 1)
    return (1 - kept) * inverse / scaling.factor + kept * inverse


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate [T, H, D] by a table [T, D / 2]: halves are (first, second), as in Llama's Hugging Face layout."""
    cos, sin = (t[:, None, :].to(x.dtype) for t in table)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def mrope_table(positions: Tensor, dim: int, theta: float, sections: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """cos, sin [T, dim / 2] fp32 for [3, T] positions: frequencies in three runs turn with time, row and column.

    M-RoPE (Qwen2-VL, arXiv 2409.12191); text, whose three positions are equal, is turned as by plain RoPE.
    """
    tables = [rope_table(axis, dim, theta) for axis in positions]
    ends = [sections[0], sections[0] + sections[1], sum(sections)]
    parts = [[table[k][:, a:b] for table, a, b in zip(tables, (0, *ends), ends, strict=False)] for k in (0, 1)]
    return torch.cat(parts[0], -1), torch.cat(parts[1], -1)
