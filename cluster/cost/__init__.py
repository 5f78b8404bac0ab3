"""What a recipe needs and takes on a site, by arithmetic on configurations: no torch, no numpy, nothing is started.

```
ModelConfig -> parts: vit | grid_vit | cnn, projector | queries, decoder list their operations (ops)
                 |  flow        \\
   Load (rows) --+-- activations, work      states, gathers, traffic, sizes
                          \\______________________/
                                  estimate: memory, seconds (device, network) of a Setting
                                  /                  \\
                               search            simulate, goodput
```
docs/estimate.md explains each formula; tests compare them with real engines.

ops.py          operations that parts are made of: linears, norms, attention, lookup, loss
vit.py          the native-resolution ViT as operations
grid_vit.py     the ViT on a learned grid as operations
cnn.py          the frozen networks: EfficientNet-Lite0, ResNet, ConvNeXt
projector.py    projectors of single tokens as operations
queries.py      projectors with a fixed number of tokens a view
decoder.py      the decoder as operations, with a visual expert if there is one
parts.py        the table of parts; a model's modules and parameters under a stage
flow.py         which operations a gradient flows through
load.py         what a micro-step carries: positions, pairs of attention, patches, labels
segments.py     segments, views and windows as loads
states.py       weights, gradients and optimizer of a rank under ZeRO 0 to 3
activations.py  what autograd keeps, and buffers that come and go
gathers.py      ZeRO-3's gathering, simulated
traffic.py      every collective of a step
work.py         FLOPs and bytes that kernels move
seconds.py      kernels on a roofline, a step's seconds
network.py      seconds of a collective on a site's links
sizes.py        checkpoints, and inference with its cache
estimate.py     all of it for one setting
search.py       settings that fit, and the nearest change that does
simulate.py     steps of many ranks, with stragglers
goodput.py      checkpoint intervals under failures
"""
