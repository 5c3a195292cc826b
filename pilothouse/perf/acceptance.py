"""Acceptance that was published, by method and kind of work, and what there is to draft with. All of it Estimated: what
an engine reports of itself is better than any of it.

An acceptance is the chance that a drafted token is kept if those before it were (`speculation.py`); where a source gives
tokens per step, it is the constant rate that yields them.
"""

from enum import StrEnum

import msgspec

from pilothouse.perf.models import MODELS, Model
from pilothouse.perf.speculation import LOOKS_UP, Method, Speculation

LOGS = "acceptance logs of arXiv 2601.11580 (Llama-3.1-8B, vLLM)"
EAGLE_SOURCE = (
    f"EAGLE-3 on gpt-oss-120b, MT-Bench, 2.41 tokens of 3 drafted (arXiv 2605.09992); kinds differ as in {LOGS}"
)
MTP_SOURCE = (
    "85 to 90 % whatever the topic (DeepSeek-V3 report, 5.4.3); later positions less (GLM-4.5-Air, arXiv 2601.11580)"
)
DRAFT_SOURCE = "0.65 to 0.75 with models of 1/17 to 1/150 of the size (Leviathan et al. 2023, tables 2 and 3)"
MEDUSA_SOURCE = "about 60 % for the first head, less for each further one (Cai et al., arXiv 2401.10774)"
NGRAM_SOURCE = f"{LOGS}: ShareGPT, InstructCoder, CNN/DailyMail; agentic taken as code"
SUFFIX_SOURCE = (
    "as n-gram, which it beats nearly always (vLLM pull request 25784); code and agentic: long edits, 2.96 tokens per step "
    "with a draft in 55 % of them (vLLM pull request 24344)"
)
CONSTRAINED_KEPT = 0.5  # of the acceptance, where a grammar binds and a model drafts
CONSTRAINED_SOURCE = (
    "an assumption: drafters do not see the grammar, which decides 37 to 50 % of the tokens of tool calls; lookups had 0 of "
    "24 drafted tokens kept (both: vllm-metal pull request 650)"
)


class Kind(StrEnum):
    """Of work, as far as drafting differs."""

    CHAT = "chat"
    CODE = "code"  # editing: much of the answer is in the prompt
    SUMMARISE = "summarise"  # and questions about documents
    AGENTIC = "agentic"  # tool loops


class Published(msgspec.Struct, frozen=True):
    """One method."""

    acceptance: dict[Kind, float]
    source: str
    drafted: dict[Kind, float] = {}  # share of steps with a draft; empty = all
    draft_tokens: tuple[int, ...] = (1, 2, 3, 4, 5)  # that are worth trying


def _kinds(chat: float, code: float, summarise: float, agentic: float) -> dict[Kind, float]:
    return dict(zip(Kind, (chat, code, summarise, agentic), strict=True))


PUBLISHED = {
    Method.EAGLE3: Published(_kinds(0.67, 0.70, 0.69, 0.67), EAGLE_SOURCE),
    # One head is trained: used again for later positions it does worse each time.
    Method.MTP: Published(_kinds(0.85, 0.85, 0.85, 0.85), MTP_SOURCE, draft_tokens=(1, 2)),
    Method.DRAFT_MODEL: Published(_kinds(0.75, 0.75, 0.65, 0.75), DRAFT_SOURCE),
    Method.NGRAM: Published(
        _kinds(0.62, 0.62, 0.43, 0.62), NGRAM_SOURCE, _kinds(0.33, 0.88, 0.48, 0.88), draft_tokens=(2, 3, 5, 8)
    ),
    Method.MEDUSA: Published(_kinds(0.5, 0.5, 0.5, 0.5), MEDUSA_SOURCE, draft_tokens=(1, 2, 3, 4)),
    Method.SUFFIX: Published(
        _kinds(0.62, 0.87, 0.43, 0.87), SUFFIX_SOURCE, _kinds(0.33, 0.55, 0.48, 0.55), draft_tokens=(2, 3, 5, 8, 16)
    ),
}

# Checkpoints with a prediction head in them: published configurations (`num_nextn_predict_layers`, `mtp_num_hidden_layers`).
WITH_MTP = (
    "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3.2", "zai-org/GLM-4.5",
    "zai-org/GLM-4.5-Air", "zai-org/GLM-5.2", "Qwen/Qwen3.5-27B", "Qwen/Qwen3.6-27B", "Qwen/Qwen3.5-35B-A3B",
    "Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.5-122B-A10B", "Qwen/Qwen3.5-397B-A17B",
)  # fmt: skip
# Published EAGLE-3 heads, by the model they were trained for. There are more than are listed.
EAGLE_HEADS = {
    "meta-llama/Llama-3.1-8B": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B",
    "meta-llama/Llama-3.1-70B": "yuhuili/EAGLE3-LLaMA3.3-Instruct-70B",
    "Qwen/Qwen3-1.7B": "AngelSlim/Qwen3-1.7B_eagle3",
    "Qwen/Qwen3-4B": "AngelSlim/Qwen3-4B_eagle3",
    "Qwen/Qwen3-8B": "RedHatAI/Qwen3-8B-speculator.eagle3",
    "Qwen/Qwen3-14B": "AngelSlim/Qwen3-14B_eagle3",
    "Qwen/Qwen3-32B": "RedHatAI/Qwen3-32B-speculator.eagle3",
    "Qwen/Qwen3-30B-A3B": "RedHatAI/Qwen3-30B-A3B-Instruct-2507-speculator.eagle3",
    "Qwen/Qwen3.5-397B-A17B": "AQ-MedAI/Qwen3.5-397B-A17B-eagle3",
    "openai/gpt-oss-20b": "RedHatAI/gpt-oss-20b-speculator.eagle3",
    "openai/gpt-oss-120b": "RedHatAI/gpt-oss-120b-speculator.eagle3",
}
DRAFT_SHARE_MAX = 1 / 8  # of the target's active weights: a larger draft model takes too long


def published(method: Method, kind: Kind, draft_tokens: int, acceptance: float | None = None) -> Speculation:
    """`acceptance`: what was measured instead."""
    of = PUBLISHED[method]
    rate = of.acceptance[kind] if acceptance is None else acceptance
    return Speculation(
        method, draft_tokens, rate, constrained_kept(method) * rate, of.drafted[kind] if of.drafted else 1.0
    )


def constrained_kept(method: Method) -> float:
    """Share of the acceptance that is left where a grammar binds the answer."""
    return 0.0 if method in LOOKS_UP else CONSTRAINED_KEPT


def draft_model_for(model: Model) -> Model | None:
    """The largest model of the catalogue, of the same maker and vocabulary, that is small enough; None = none known."""
    maker = model.name.partition("/")[0]
    fitting = [
        other
        for other in MODELS.values()
        if other.name.startswith(f"{maker}/")
        and other.vocab == model.vocab
        and other.active_b <= DRAFT_SHARE_MAX * model.active_b
        and not other.experts
    ]
    return max(fitting, key=lambda other: other.active_b, default=None)


def available(method: Method, model: Model) -> tuple[str, bool]:
    """(what to draft with, in words; whether it is known to exist for this model)"""
    match method:
        case Method.NGRAM | Method.SUFFIX:
            return "nothing needed" if method is Method.NGRAM else "needs the package arctic-inference", True
        case Method.MTP if model.name in WITH_MTP:
            return "the model has a prediction head", True
        case Method.EAGLE3 if model.name in EAGLE_HEADS:
            return EAGLE_HEADS[model.name], True
        case Method.DRAFT_MODEL:
            draft = draft_model_for(model)
            return ("unknown: check", False) if draft is None else (f"{draft.name}; check that tokenizers agree", True)
    return "unknown: check", False
