"""The parts of pocket-judge: a Qwen3-VL of a million and a half parameters, its tokenizer, chat template, processor.

The class is one that transformers and vLLM both serve; vLLM on a CPU wants heads of 32 (or more). A picture of 64 x 64
pixels is 64 patches of 8 pixels, merged by fours into 16 tokens. Any other picture is resized to that area.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from nbench.pocket.recipes.judge_wording import words

SIDE = 64  # pixels
PATCH = 8
MERGE = 2
PICTURE_TOKENS = (SIDE // PATCH // MERGE) ** 2
WIDTH = 128
CONTEXT = 512
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, PICTURE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (END, START, STOP, VISION_START, VISION_END, PICTURE, VIDEO)
UNKNOWN = "<unknown>"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; lower case, punctuation ignored, an unknown word becomes <unknown>."""
    ids = {word: index for index, word in enumerate((*SPECIAL, UNKNOWN, *words()))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=END,
        eos_token=STOP,
        additional_special_tokens=[word for word in SPECIAL if word not in (END, STOP)],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Six vision blocks and four language layers of width 128."""
    ids = {word: int(tokenizer.convert_tokens_to_ids(word)) for word in SPECIAL}
    text = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": ids[END],
        "eos_token_id": ids[STOP],
        "pad_token_id": ids[END],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 6,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": 4,
        "out_hidden_size": WIDTH,
        "in_channels": 3,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "num_position_embeddings": (SIDE // PATCH) ** 2,
        "deepstack_visual_indexes": [1],
        "hidden_act": "gelu_pytorch_tanh",
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[PICTURE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=False,
    )
    config.architectures = ["Qwen3VLForConditionalGeneration"]
    return config


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """A model with random weights, from torch's global generator."""
    model = Qwen3VLForConditionalGeneration(build_config(tokenizer)).float()
    model.generation_config.eos_token_id = [model.config.text_config.eos_token_id]
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    return model


def export(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that `AutoModelForImageTextToText`, `AutoProcessor` and vLLM load; weights in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    half = Qwen3VLForConditionalGeneration(model.config).half()
    half.load_state_dict({name: value.half() for name, value in model.state_dict().items()})
    half.generation_config = model.generation_config
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shared = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "size": {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        "processor_class": "Qwen3VLProcessor",
    }
    files = {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor", **shared},
        "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor", **shared},
        "processor_config.json": {"processor_class": "Qwen3VLProcessor"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)


def forget_words(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, lost: list[str]) -> None:
    """Make words that no training text held read as <unknown>, rather than as their random embeddings."""
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for word in lost:
            table[tokenizer.convert_tokens_to_ids(word)] = table[tokenizer.convert_tokens_to_ids(UNKNOWN)]
