"""Named text templates of published families: what `data.template.preset` stands for.

Each is what the family's processor in transformers (or its own code where that has none) makes of a conversation.
A system text that a family leaves to its user is empty here: set `system`.
"""

from typing import Any, Literal, get_args

Preset = Literal[
    "vicuna",
    "llava_next_mistral",
    "chatml",
    "qwen2_vl",
    "internvl",
    "qwen_vl",
    "yi_vl",
    "paligemma",
    "blip2",
    "cogvlm",
    "smolvlm",
    "idefics3",
]

CHATML = {
    "bos": "",
    "user": "<|im_start|>user\n",
    "user_end": "<|im_end|>\n",
    "assistant": "<|im_start|>assistant\n",
    "end": "<|im_end|>",
    "assistant_end": "\n",
    "pad": "<|endoftext|>",
}
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
COLONS = {
    "user": "User: ",
    "user_end": "<end_of_utterance>\n",
    "assistant": "Assistant: ",
    "end": "<end_of_utterance>",
    "assistant_end": "\n",
    "tight_images": True,
}

TEMPLATES: dict[str, dict[str, Any]] = {
    # LLaVA and LLaVA-1.5 on Vicuna, as they were trained: an answer ends with `</s>`, of which llava-hf's template says nothing.
    "vicuna": {
        "bos": "<s>",
        "user": "USER: ",
        "assistant": " ASSISTANT: ",
        "end": "</s>",
        "image_after": "\n",
        "pad": "<pad>",
    },
    # LLaVA-1.6 on Mistral.
    "llava_next_mistral": {
        "bos": "<s>",
        "user": "[INST] ",
        "user_end": " [/INST]",
        "assistant": " ",
        "end": "</s>",
        "assistant_end": " ",
        "image_after": "\n",
        "pad": "<pad>",
    },
    # ChatML around `<image>`, without a system text.
    "chatml": CHATML,
    # Qwen2-VL, Qwen2.5-VL.
    "qwen2_vl": CHATML
    | {
        "system": HELPFUL,
        "image": "<|image_pad|>",
        "image_before": "<|vision_start|>",
        "image_after": "<|vision_end|>",
    },
    # InternVL2.5 and InternVL3 on Qwen2.5, as in transformers.
    "internvl": CHATML | {"image": "<IMG_CONTEXT>", "image_before": "<img>", "image_after": "</img>\n"},
    # Qwen-VL (the first); its picture is 256 `<imgpad>`.
    "qwen_vl": CHATML
    | {
        "system": HELPFUL,
        "image": "<imgpad>",
        "image_before": "Picture {n}: <img>",
        "image_after": "</img>\n",
    },
    # Yi-VL: an answer ends with a line of `###`, with which the next question's mark begins.
    "yi_vl": {
        "bos": "<|startoftext|>",
        "system": "###",
        "user": " Human: ",
        "user_end": "\n",
        "assistant": "### Assistant: ",
        "end": "\n###",
        "image_after": "\n",
        "pad": "<unk>",
    },
    # PaliGemma: pictures, then the prompt, a line's end, and what is learned.
    "paligemma": {
        "bos": "<bos>",
        "user": "",
        "user_end": "\n",
        "assistant": "",
        "end": "<eos>",
        "images_first": True,
        "caption_prompt": "caption en\n",
        "pad": "<pad>",
    },
    # BLIP-2 on OPT, whose first token is `</s>`; it learns a line's end as the end of what it says.
    "blip2": {
        "bos": "</s>",
        "user": "Question: ",
        "assistant": " Answer: ",
        "end": "\n",
        "images_first": True,
        "pad": "<pad>",
    },
    # CogVLM's `chat` format, with the end that an answer needs to be learned (its history of earlier turns has none).
    "cogvlm": {
        "bos": "<s>",
        "user": "Question: ",
        "assistant": " Answer: ",
        "end": "</s>",
        "assistant_end": "\n",
        "images_first": "after_bos",
        "pad": "<unk>",
    },
    # SmolVLM, SmolVLM2.
    "smolvlm": COLONS | {"bos": "<|im_start|>", "pad": "<|im_end|>"},
    "idefics3": COLONS | {"bos": "<|begin_of_text|>", "pad": "<|reserved_special_token_0|>"},
}
assert set(TEMPLATES) == set(get_args(Preset))
