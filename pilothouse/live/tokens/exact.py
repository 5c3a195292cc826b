"""From a request to its chunks of token ids, with this machine's copy of the model's tokenizer and template."""

from pathlib import Path
from typing import Any

from pilothouse.live.tokens.dialect import ID_BYTES, pack
from pilothouse.live.tokens.encode import Cut, Encoder, in_chunks
from pilothouse.live.tokens.inexact import Inexact
from pilothouse.live.tokens.model_files import find_model_files
from pilothouse.live.tokens.requests import Chat, EngineSettings, Wanted, read_request
from pilothouse.live.tokens.requests import Cut as Truncation
from pilothouse.live.tokens.template import ChatTemplate
from pilothouse.live.tokens.tokenizer import load_tokenizer


class ExactTokens:
    """One model's template and tokenizer. Belongs to one event loop, except `encoder.encode`."""

    def __init__(self, tokenizer: Path, settings: EngineSettings, bytes_max: int) -> None:
        files = find_model_files(tokenizer)
        self.settings, self._own_rendering = settings, files.own_rendering
        templates = files.templates if settings.chat_template is None else {"default": settings.chat_template}
        self.template = ChatTemplate(templates, files.special_tokens)
        self.encoder = Encoder(load_tokenizer(files.tokenizer, files.config), bytes_max)
        self._longest_token = max(map(len, self.encoder.loaded.tokenizer.get_vocab()), default=1)

    def read(self, route: str, body: dict[str, Any]) -> tuple[Wanted, Cut]:
        """The prompt of a request, cut and looked up. Raises Inexact or ClientError."""
        wanted = read_request(route, body, self.template, self.settings)
        prompt = wanted.prompt
        if isinstance(prompt, list):
            return wanted, Cut([""], [in_chunks(pack(prompt))], 0)
        if self._own_rendering:
            raise Inexact(self._own_rendering)
        if isinstance(prompt, Chat):
            prompt = self.template.render(prompt.messages, prompt.tools, prompt.options)
        if not prompt.isascii() and not _encodable(prompt):
            raise Inexact("text is not valid Unicode")
        if wanted.cut is not None:
            self._check(wanted.cut, wanted.add_special_tokens, len(prompt))
        return wanted, self.encoder.cut(prompt, wanted.add_special_tokens)

    def _check(self, cut: Truncation, add_special_tokens: bool, chars: int) -> None:
        """Refuses truncations whose outcome depends on more than the finished ids."""
        loaded = self.encoder.loaded
        if cut.by_client:
            if chars > (self.settings.max_model_len or 0) * self._longest_token:
                raise Inexact("truncation the engine alone can judge")
        elif add_special_tokens and (loaded.suffix or (loaded.prefix and cut.side == "left")):
            raise Inexact("truncation the engine alone can judge")


def truncated(chunks: list[bytes], cut: Truncation | None) -> list[bytes]:
    """The chunks that are left of a finished prompt."""
    if cut is None or sum(map(len, chunks)) <= cut.tokens * ID_BYTES:
        return chunks
    packed, size = b"".join(chunks), cut.tokens * ID_BYTES
    return list(in_chunks(packed[-size:] if cut.side == "left" else packed[:size]))


def _encodable(text: str) -> bool:
    """False for text with half a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
