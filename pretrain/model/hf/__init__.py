"""Names and shapes to and from Hugging Face: tables, and files read tensor by tensor.

```
HF folder --published.py--> tensors by name --family table--> logical tensors (a run at step 0) --the table turned round--> HF folder
```

published.py  a published folder: config.json, safetensors read one tensor at a time
rules.py      what a table is made of: one of our tensors, one of theirs, and what lies between
llava.py      LLaVA-1.5 (and LLaVA's linear projector): CLIP ViT, MLP, Llama
families.py   which family a folder is of; a folder held against its table
"""
