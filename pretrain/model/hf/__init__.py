"""Names and shapes to and from Hugging Face: tables, and files read tensor by tensor.

```
HF folder --published.py--> tensors by name --family table--> logical tensors (a run at step 0) --the table turned round--> HF folder
```

published.py  a published folder: config.json, safetensors read one tensor at a time
tensor_file.py  a safetensors file, mapped or (on a network's file system) read
gguf.py       a GGUF file, dequantised one tensor at a time
gguf_tokenizer.py  the tokenizer inside it
processor.py  the published image processor: resolution, pixel scales; the chat template as a text
rules.py      what a table is made of: one of our tensors, (rows of) one of theirs, and what lies between
family.py     what a family is: its composition, its table, the spellings of its names
text.py       language models: Llama, Mistral, Qwen2, Qwen3, Gemma, OPT
parts.py      a vision tower or a language model in a folder of its own
cnns.py       ResNet and ConvNeXt in a folder of their own
towers.py     vision towers: CLIP, SigLIP, InternViT, EVA
llava.py      LLaVA-1.5, LLaVA-NeXT, LLaVA's linear projector
original_llava.py  LLaVA v1 and v1.5 as their own code publishes them, Yi-VL
paligemma.py  PaliGemma
internvl.py   InternVL 2.5 and 3
idefics3.py   Idefics3, SmolVLM
blip2.py      BLIP-2
qwen2_vl.py   Qwen2-VL, Qwen2.5-VL
qwen_vl.py    Qwen-VL, the first
cogvlm.py     CogVLM
families.py   which family a folder is of; a folder held against its table
"""
