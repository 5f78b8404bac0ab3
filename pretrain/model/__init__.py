"""The model as a composition: which encoder, projector and decoder is a recipe's choice, never a class of its own.

```
batch -> inputs --pixels--> vision | cnn --features--> projector --+
            |                                                      v
            +------------------ids-----------------> embedding -> decoder -> loss | logits
                                                                   |
                                                       attention inside segments
```

vlm.py            encoder + projector + decoder; loss sums for training, hidden states and a cache for answers
inputs.py         a batch as tensors, with its segments prepared once for all layers
vision.py         native-resolution vision transformer, also with windows (Qwen2.5-VL)
vit.py            vision transformers on a fixed grid: ViT, CLIP, SigLIP, EVA, InternViT
convolutional.py  what convolutional networks share: frozen, pictures of any sizes, a grid or its mean
cnn.py            EfficientNet-Lite0 with ImageNet weights, frozen
resnet.py         ResNet, frozen
convnext.py       ConvNeXt, frozen
frozen.py         one of these out of its settings, with published weights
projector.py      encoder features -> decoder width
qformer.py        BLIP-2's queries
resampler.py      Qwen-VL's queries
perceiver.py      Idefics' queries
decoder.py        language model, tensor-parallel, with a KV cache
decoder_layer.py  one of its layers, with a visual expert if there is one
cache.py          keys and values of answers under way
attention.py      attention inside segments; one function chooses how
norm.py           RMS and layer norms
activations.py    names of activations -> functions
learned.py        learned vectors and tables
hf/               names and shapes to and from Hugging Face
linear.py         parameters with a logical name, and Megatron-core's parallel linears on them
"""
