"""Shape of one sample's tensors after each part of the model, by arithmetic: no weights, no memory."""

from collections.abc import Sequence

from cluster.cost.cnn import channels as channels_of
from cluster.cost.decoder import padded_vocabulary
from cluster.cost.parts import frozen_outside, make_model
from cluster.cost.segments import seen
from configs.encoders import Cnn
from configs.model import ModelConfig
from data_pipeline.stream.layout import geometry_of, layout


def shapes_of(
    model: ModelConfig, sizes: Sequence[tuple[int, int]], text_tokens: int, learned: int, vocabulary: int
) -> dict[str, list[int]]:
    """Shapes of a sample with pictures of `sizes` (width, height), in the order of the model's parts.

    The course's example: a picture of 224 x 224 pixels in patches of 16 makes 196 visual tokens; with 4 tokens of text
    they are 200 positions.

    >>> from configs.decoder import DecoderConfig
    >>> from configs.encoders import NativeViT
    >>> from configs.resolutions import SquareResolution
    >>> course = ModelConfig(
    ...     encoder=NativeViT(patch=16, width=1024, depth=24, heads=16, mlp_width=4096),
    ...     resolution=SquareResolution(size=224),
    ...     decoder=DecoderConfig(layers=32, width=4096, heads=32, mlp_width=11008),
    ... )
    >>> for part, shape in shapes_of(course, [(224, 224)], text_tokens=4, learned=1, vocabulary=32000).items():
    ...     print(f"{part:<24} {shape}")
    picture 0 pixels         [224, 224, 3]
    patches                  [196, 768]
    encoder                  [196, 1024]
    projector                [196, 4096]
    embeddings               [200, 4096]
    decoder                  [200, 4096]
    logits of learned tokens [1, 32000]
    """
    geometry = geometry_of(model)
    counts = layout(tuple(sizes), text_tokens, learned, geometry)
    shapes = {
        f"picture {number} pixels": [rows * geometry.cell, columns * geometry.cell, 3]
        for number, (rows, columns) in enumerate(counts.grids)
    }
    if isinstance(model.encoder, Cnn):
        channels = channels_of(model.encoder)
    else:
        channels = model.encoder.width
        shapes["patches"] = [counts.patches, 3 * geometry.patch**2]
    # A sample without pictures still runs one dummy token through encoder and projector.
    made, width = seen(model, counts.grids), model.decoder.width
    outputs, views = max(1, round(made["outputs"])), max(1, made["views"])
    visual = model.queries * views or outputs + (model.extra - model.encoder_extra) * views
    return {
        **shapes,
        "encoder": [outputs, channels * model.merge**2],
        "projector": [visual, width],
        "embeddings": [counts.tokens, width],
        "decoder": [counts.tokens, width],
        "logits of learned tokens": [
            max(1, learned),
            padded_vocabulary(model.decoder, model.decoder.vocab_size or vocabulary),
        ],
    }


def parameters_of(model: ModelConfig, vocabulary: int) -> int:
    """Parameters of all parts, padding of the vocabulary and a frozen network with them."""
    listed = make_model(model, vocabulary, 1, {})
    return sum(placed.weight.size for placed in listed.weights) + frozen_outside(model)
