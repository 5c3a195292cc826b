"""Small tokenizers of every family that matters, trained on the spot, for laws that must hold for each of them."""

import json
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _corpus() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    prose = "Zoë naïve café 你好 世界 Привет мир hello 123 4567 👩‍🚀 e\u0301 "
    return [path.read_text("utf-8") for path in sorted(folder.glob("*.py"))[:12]] + [prose * 50]


def _trained(
    tokenizer: Tokenizer, special: list[str], kind: type[Any] = trainers.BpeTrainer, **options: Any
) -> Tokenizer:
    trainer = kind(vocab_size=700, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def qwen() -> Tokenizer:
    """Byte-level words after NFC; tool marks are added tokens that are not special."""
    tokenizer = _byte_level(SPECIAL)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return tokenizer


def llama3() -> Tokenizer:
    """Byte-level words, and a bos token from the post-processor."""
    tokenizer = _byte_level(["<|begin_of_text|>", *SPECIAL])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]),
        ]
    )
    return tokenizer


def prefix_space() -> Tokenizer:
    """GPT-2's own splitting, with a space put before every stretch."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return _trained(tokenizer, SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The 256 byte tokens in the vocabulary, as sentencepiece models have them: not added tokens."""
    described = json.loads(tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    return Tokenizer.from_str(json.dumps(described))


def metaspace_first() -> Tokenizer:
    """Byte fallback, and a metaspace before the first stretch only: the one family that cares about being first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # splits, only to train in reasonable time
    tokenizer = _with_bytes(_trained(tokenizer, ["<unk>", "<s>", "</s>", *SPECIAL]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def metaspace_always() -> Tokenizer:
    """A metaspace before every stretch, and words that end at it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return _trained(tokenizer, ["<unk>", "<s>", "</s>", *SPECIAL])


def llama2() -> Tokenizer:
    """Space handling by the normaliser, no splitting, byte fallback, bos from the post-processor."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # only to train; such models do not split
    tokenizer = _with_bytes(_trained(tokenizer, ["<unk>", "<s>", "</s>", *SPECIAL]))
    tokenizer.pre_tokenizer = None
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """Unigram after NFKC, as T5 and XLM-R have it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fast: dict[str, Any] = {"n_sub_iterations": 1, "shrinking_factor": 0.3}  # the laws want the kind, not the quality
    return _trained(tokenizer, ["<unk>", *SPECIAL], trainers.UnigramTrainer, unk_token="<unk>", **fast)


def bert() -> Tokenizer:
    """Word pieces of lowered text between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _trained(tokenizer, ["[UNK]", "[CLS]", "[SEP]", *SPECIAL], trainers.WordPieceTrainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def greedy_tokens() -> Tokenizer:
    """Added tokens that swallow the spaces around them: text must not be cut."""
    tokenizer = qwen()
    tokenizer.add_special_tokens([AddedToken("<pad>", lstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<mask>", rstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("café", single_word=True, normalized=False)])
    return tokenizer


def normalized_tokens() -> Tokenizer:
    """Added tokens looked up in normalised text, one greedy: they are found inside a stretch, which may be cut."""
    tokenizer = qwen()
    tokenizer.add_tokens([AddedToken("é", normalized=True), AddedToken("hello", normalized=True, lstrip=True)])
    tokenizer.add_tokens([AddedToken("<|im_start|>user", normalized=True)])
    return tokenizer


def nested_tokens() -> Tokenizer:
    """Special tokens that contain and overlap each other: the longest at the leftmost place wins."""
    tokenizer = qwen()
    tokenizer.add_special_tokens(["<|", "<|im_start|>system", "im_end|>x", "x<|", "."])
    return tokenizer


VARIANTS: dict[str, Callable[[], Tokenizer]] = {
    make.__name__: cache(make)
    for make in (
        *(qwen, llama3, prefix_space, metaspace_first, metaspace_always, llama2, unigram, bert),
        *(greedy_tokens, normalized_tokens, nested_tokens),
    )
}
WHOLE_ONLY = {"greedy_tokens"}


def write_model(folder: Path, tokenizer: Tokenizer, template: str | None = CHATML, **config: Any) -> Path:
    """A model folder with what this package reads of one."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend", **config}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
