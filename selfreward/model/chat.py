"""Messages to tokens and back: the chat template, control tokens in people's text, and the choices of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from selfreward.errors import ModelError
from selfreward.pretrained import load

_DAY = datetime(2024, 7, 26)
_ON_THAT_DAY = "".join(f"|replace('%{part}', '{_DAY.strftime(f'%{part}')}')" for part in "aAbBdDeFHIjmMpSuUwyYZ")
_DATED = f"{{%- macro strftime_now(format) -%}}{{{{ format{_ON_THAT_DAY} }}}}{{%- endmacro +%}}"
"""Put before a template that names today's date: a prompt must not depend on the day on which it is asked."""
_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""What templates write around turns where the tokenizer has no special token for it: `[/INST]`, `<|assistant|>`."""
_PLACEHOLDER = "PLACEHOLDER"


@dataclass(frozen=True)
class Choices:
    """Answers that differ in one token: what goes before that token, and the token of each answer."""

    opening_ids: list[int]
    choice_ids: list[int]


class Chat:
    """A model's tokenizer and chat template. Raises `ModelError` where there is no template."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoTokenizer  # takes a second to import, and a finished run needs no tokenizer

        self.folder = folder
        self.tokenizer: Any = load(AutoTokenizer, folder)
        if self.tokenizer.chat_template is None:
            raise ModelError(f"{folder} has no chat template: use the instruction-tuned version of the model")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        own: str = self.tokenizer.get_chat_template()
        self._template = _DATED + own if "strftime_now" in own else own
        self._how = {"enable_thinking": False} if "enable_thinking" in own else {}
        if self._rendered("user").rstrip().endswith("<think>"):
            raise ModelError(
                f"{folder} has a chat template that opens each answer with a thought: answers would be cut thoughts, "
                "and a judge has no score to read; use a model whose template can leave that out"
            )

    @cached_property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer: those of the model's settings for generation, and the tokenizer's own."""
        from transformers import AutoConfig, GenerationConfig

        configured: int | list[int] | None = None
        with suppress(OSError, ValueError, ModelError):  # a tokenizer may stand alone
            try:
                configured = GenerationConfig.from_pretrained(self.folder).eos_token_id
            except OSError:  # then transformers takes them from the model's own configuration
                configured = GenerationConfig.from_model_config(load(AutoConfig, self.folder)).eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({id for id in [*ids, self.tokenizer.eos_token_id] if id is not None})

    @cached_property
    def turn_end_id(self) -> int:
        """The token that ends an answer in the chat template, which need not be the one that ends a text."""
        _, _, after = self._rendered("user", "assistant").rpartition(_PLACEHOLDER)
        return next((id for id in self._encode(after) if id in self.end_ids), self.tokenizer.eos_token_id)

    def render(self, message: str) -> list[int]:
        """The tokens of a conversation that holds one user message, up to where the model's answer begins. Of a
        template that can have the model think before it answers, without that."""
        return self._encode(self._apply([{"role": "user", "content": self.neutralise(message)}]))

    def render_opened(self, message: str, opening: str) -> list[int]:
        """The same, with the words that the model's answer begins with."""
        return [*self.render(message), *self._encode(opening)]

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer that somebody gave, with the one that ends it."""
        return [*self._encode(self.neutralise(text)), self.turn_end_id]

    def document(self, text: str) -> list[int]:
        """The tokens of a text that is no part of a conversation, with the one that begins a text, where the tokenizer
        puts one there, and the one that ends it."""
        return [*self._begin_ids, *self._encode(self.neutralise(text)), self.tokenizer.eos_token_id]

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._encode(self.neutralise(text)))

    def neutralise(self, text: str) -> str:
        """`text` with a space inside each control token, so that nobody's words can end a turn or open another."""
        for token in self._control_tokens:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without control tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True).strip()

    def choices(self, opening: str, answers: Sequence[str]) -> Choices:
        """The tokens of answers that all begin with `opening`, where each ends in one token that the others lack.

        Tokenizers differ in whether a space belongs to the opening or to the token after it, so whole answers are
        tokenized and split where they part.

        Raises `ModelError` where the tokenizer spells the answers in more than one token.
        """
        encoded = [self._encode(f"{opening} {answer}") for answer in answers]
        length = len(encoded[0])
        shared = [ids[: length - 1] for ids in encoded]
        last = [ids[length - 1 :] for ids in encoded]
        if (
            any(ids != shared[0] for ids in shared)
            or any(len(ids) != 1 for ids in last)
            or len({*map(tuple, last)}) < len(last)
        ):
            raise ModelError(
                f"the tokenizer has no single token for each of {', '.join(answers)}: "
                "take another model, or, where these are scores, judge.mode=sampled"
            )
        return Choices(shared[0], [ids[0] for ids in last])

    @cached_property
    def _begin_ids(self) -> list[int]:
        """The token that the tokenizer puts before a text; none where it puts none."""
        begin = [self.tokenizer.bos_token_id]
        return begin if self.tokenizer("a")["input_ids"][:1] == begin else []

    @cached_property
    def _control_tokens(self) -> list[str]:
        """Special tokens, and what the template writes around turns; the longest first."""
        # Special alone: some tokenizers also add line breaks and runs of spaces, which are ordinary text.
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        markup = {*_MARKUP.findall(self._turns)}
        return sorted(special | markup | {*self.tokenizer.all_special_tokens}, key=len, reverse=True)

    @property
    def _turns(self) -> str:
        """A conversation with as many kinds of turns as the template allows."""
        from jinja2 import TemplateError

        for roles in [("system", "user", "assistant", "user"), ("user", "assistant", "user")]:
            with suppress(TemplateError):
                return self._rendered(*roles)
        return self._rendered("user")

    def _rendered(self, *roles: str) -> str:
        """Turns of these roles that hold a placeholder."""
        return self._apply([{"role": role, "content": _PLACEHOLDER} for role in roles])

    def _apply(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self._template,
            add_generation_prompt=messages[-1]["role"] == "user",
            tokenize=False,
            **self._how,
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
