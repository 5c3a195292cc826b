"""The built-in tokenizer: a folder with what `/v1/models` calls the root, so that a gateway reads prompts as we do.

A byte-level BPE over a short list of English words, made from that list alone: the same everywhere. Common words are
one token, rare ones a few, digits one each; its counts are like a real tokenizer's on prose, not on code.
"""

import hashlib
import json
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

import msgspec
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pilothouse.perf.catalog import Model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKUP = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with the sign or space before it
    r"|\p{N}"  # digits one by one
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # signs, with the line ends that follow
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # white space
)
VOCABULARY = 8192  # more than the words need: the list decides, not this bound


def built_in_folder(model: Model, max_model_len: int, cache: Path | None = None) -> Path:
    """The folder, written if it is not there yet. The same content has the same place."""
    contents = _contents(model, max_model_len)
    digest = hashlib.blake2b(digest_size=8)
    for name, text in sorted(contents.items()):
        digest.update(f"{name}\0{text}\0".encode())
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "emulated"
    folder = base / digest.hexdigest()
    if not folder.is_dir():
        base.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=base))
        made.chmod(0o755)
        for name, text in contents.items():
            (made / name).write_text(text)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(made, ignore_errors=True)
            if not folder.is_dir():
                raise
    return folder


def _contents(model: Model, max_model_len: int) -> dict[str, str]:
    tokenizer = build_tokenizer()
    end = tokenizer.token_to_id("<|im_end|>")
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_model_len,
        "chat_template": _resource("chat_template.jinja"),
    }
    config = {
        "architectures": ["EmulatedByPilothouse"],  # nobody may load weights for it
        "model_type": "pilothouse-emulated",
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": max_model_len,
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": end,
    }
    return {
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": json.dumps(described, indent=2),
        "config.json": json.dumps(config, indent=2),
        "generation_config.json": msgspec.json.encode({"eos_token_id": [end]}).decode(),
    }


def build_tokenizer() -> Tokenizer:
    """Trained on the word list, each word with and without the space before it, and capitalised."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = list(dict.fromkeys(_resource("words.txt").split()))
    texts = [text for word in words for text in (f" {word}", word, word.capitalize())]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKUP])
    return tokenizer


def _resource(name: str) -> str:
    return files("pilothouse.emulate").joinpath(name).read_text()
