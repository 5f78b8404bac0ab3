"""The model as a composition: which encoder, projector and decoder is a recipe's choice, never a class of its own.

```
batch -> inputs --pixels--> vision | cnn --features--> projector --+
            |                                                      v
            +------------------ids-----------------> embedding -> decoder -> loss | logits
                                                                   |
                                                       attention inside segments
```

vlm.py        encoder + projector + decoder; loss sums for training, hidden states and a cache for answers
inputs.py     a batch as tensors, with its segments prepared once for all layers
vision.py     native-resolution vision transformer
vit.py        vision transformers on a fixed grid: ViT, CLIP, SigLIP
cnn.py        EfficientNet-Lite0 with ImageNet weights, frozen
projector.py  encoder features -> decoder width
decoder.py    Llama-shaped decoder, tensor-parallel, with a KV cache
attention.py  attention inside segments; one function chooses how
hf/           names and shapes to and from Hugging Face
linear.py     parameters with a logical name, and Megatron-core's parallel linears on them
"""
