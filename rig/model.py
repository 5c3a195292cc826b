"""Makes small language models with random weights, so that a real engine runs anywhere without a download.

    python -m rig.model OUT [--layers 8 --hidden 512]

The weights mean nothing, and yet greedy output depends on every token of the prompt: embeddings are untied and the
spread is ten times the usual. (With tied embeddings and the usual spread, a random model repeats its last token and
would hide a wrong KV cache.)
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"
RECIPE = [Path(__file__).with_name(name) for name in ("model.py", "tokenizer.py", "chat_template.jinja")]


class Shape(msgspec.Struct, frozen=True):
    """What there is to choose about a model. The default prefills 3,000 tokens in about 0.1 s on one core."""

    layers: int = 2
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 32
    feed_forward: int = 256
    vocabulary: int = 4096  # tokens
    context: int = 32768  # tokens
    spread: float = 0.2  # standard deviation of the weights
    seed: int = 0


TINY = Shape()
LARGER = Shape(
    layers=8, hidden=512, heads=8, kv_heads=4, head_size=64, feed_forward=1536
)  # prefill costs something to see


def tiny_model(cache: Path = CACHE, shape: Shape = TINY) -> Path:
    """The directory of a Qwen3 model of this shape; made at the first call, found at later ones."""
    key = fingerprint(shape, sys.version_info[:3])
    return once(cache / f"qwen3-{shape.layers}x{shape.hidden}-{key}", lambda directory: write_model(directory, shape))


def tiny_lora(model: Path, cache: Path = CACHE, rank: int = 8, seed: int = 7) -> Path:
    """The directory of a random LoRA adapter that fits the model; with another seed, another one."""
    key = fingerprint(model.name, rank, seed)
    return once(cache / f"lora-{rank}-{key}", lambda directory: write_lora(directory, model, rank, seed))


def once(target: Path, build: Callable[[Path], None]) -> Path:
    """Builds beside the target and renames: whoever comes second, even at the same time, finds it whole."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(workplace)
        workplace.chmod(0o755)
        os.rename(workplace, target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return target


def fingerprint(*parts: object) -> str:
    """A short name for parameters and recipe: after a change of either, a cached model is not found and made anew."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4)
    for path in RECIPE:
        digest.update(path.read_bytes())
    return digest.hexdigest()


# What a model consists of


def write_model(directory: Path, shape: Shape) -> None:
    """Tokenizer, configuration and weights, as `vllm serve` and transformers read them."""
    from rig.tokenizer import write_tokenizer  # here, so that this module imports without the tokenizers package

    tokens = write_tokenizer(directory, shape.vocabulary, shape.context)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    end = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    write_json(directory / "config.json", configuration(shape, tokens, end[0]))
    write_json(directory / "generation_config.json", {"eos_token_id": end, "pad_token_id": end[1]})
    write_tensors(directory / "model.safetensors", model_tensors(shape, tokens), shape.spread, shape.seed)


def configuration(shape: Shape, tokens: int, end: int) -> dict[str, Any]:
    """config.json in Hugging Face's words."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "attention_bias": False,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
        "initializer_range": shape.spread,
        "vocab_size": tokens,
        "eos_token_id": end,
        "use_cache": True,
    }


def model_tensors(shape: Shape, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and size of each tensor. Those with one dimension are norms and become ones."""
    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield "model.embed_tokens.weight", (tokens, shape.hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (shape.hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (query, shape.hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (key, shape.hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (key, shape.hidden)
        yield f"{prefix}.self_attn.q_norm.weight", (shape.head_size,)
        yield f"{prefix}.self_attn.k_norm.weight", (shape.head_size,)
        yield f"{prefix}.self_attn.o_proj.weight", (shape.hidden, query)
        yield f"{prefix}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{prefix}.mlp.gate_proj.weight", (shape.feed_forward, shape.hidden)
        yield f"{prefix}.mlp.up_proj.weight", (shape.feed_forward, shape.hidden)
        yield f"{prefix}.mlp.down_proj.weight", (shape.hidden, shape.feed_forward)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (tokens, shape.hidden)


def write_lora(directory: Path, model: Path, rank: int, seed: int) -> None:
    """An adapter on the query and value projections of every layer, in the files PEFT would write."""
    base = json.loads((model / "config.json").read_text())
    outputs = {"q_proj": base["num_attention_heads"], "v_proj": base["num_key_value_heads"]}
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for layer in range(base["num_hidden_layers"]):
        for name, heads in outputs.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors.append((f"{prefix}.lora_A.weight", (rank, base["hidden_size"])))
            tensors.append((f"{prefix}.lora_B.weight", (heads * base["head_dim"], rank)))
    write_tensors(directory / "adapter_model.safetensors", tensors, 0.5, seed)
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0}
    adapter |= {"bias": "none", "target_modules": sorted(outputs), "base_model_name_or_path": model.name}
    write_json(directory / "adapter_config.json", adapter)


# Files


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, for those who look."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_tensors(path: Path, tensors: Any, spread: float, seed: int) -> None:
    """A safetensors file of bfloat16 values: length of the header, the header in JSON, the values.

    Written by hand because importing torch would take longer than all the rest.
    """
    import numpy

    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, size in tensors:
        if len(size) == 1:
            values = numpy.ones(size, dtype=numpy.float32)
        else:
            values = generator.standard_normal(size, dtype=numpy.float32) * numpy.float32(spread)
        blobs.append((values.view(numpy.uint32) >> 16).astype("<u2").tobytes())  # bfloat16: the upper half of a float32
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, offset + len(blobs[-1])]}
        offset += len(blobs[-1])
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(blobs)


def main() -> None:
    """Writes one model to the directory named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rig.model", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("out", type=Path)
    for field in msgspec.structs.fields(Shape):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    chosen = vars(parser.parse_args())
    out: Path = chosen.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    write_model(out, Shape(**chosen))
    print(out)


if __name__ == "__main__":
    main()
