"""A small tokenizer of the Qwen kind, trained on the sources of Python's own standard library: no download.

The pieces are those of a real one, because differences hide in them: NFC, Qwen's split pattern, bytes as letters,
special tokens. What it is trained on differs between versions of Python, so token ids are equal within a machine, not
between machines.
"""

import json
import sysconfig
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # left out of decoded text
MARKUP = [
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]  # one token, yet text
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with the sign or space before it
    r"|\p{N}"  # digits one by one
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # signs, with the line ends that follow
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # white space
)
SOURCE_TOKENS = 34  # of the vocabulary, for each file of the standard library: 120 files, about 3 MB, make 4,096


def write_tokenizer(directory: Path, vocabulary: int, max_tokens: int) -> int:
    """Writes tokenizer.json, tokenizer_config.json and the chat template; returns the number of tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(MARKUP),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train(sources(vocabulary // SOURCE_TOKENS), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKUP])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        "chat_template": CHAT_TEMPLATE.read_text(),
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return tokenizer.get_vocab_size()


def sources(count: int) -> list[str]:
    """The first modules of the standard library by name."""
    return [str(path) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:count]]
