"""Tokenizers of the kinds that models have, trained on the spot."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import CONTROL, TEMPLATE

CORPUS = [
    f"Score: {n} Better: {letter} Verdict: {word}" for n in range(10) for letter in "AB" for word in ("yes", "no")
]


def byte_level(*, split_digits: bool) -> Tokenizer:
    """As of Llama 3 and Qwen: where digits are not split off, the space before one belongs to its token."""
    bpe = Tokenizer(models.BPE())
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if split_digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(steps)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=CONTROL, initial_alphabet=alphabet))
    return bpe


def metaspace() -> Tokenizer:
    """As of Llama 2 and Mistral: a word begins with the mark of the space before it."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bpe.decoder = decoders.Metaspace(prepend_scheme="never")
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=["<unk>", *CONTROL]))
    return bpe


def save(
    tokenizer: Tokenizer,
    folder: Path,
    template: str | None = TEMPLATE,
    pad: str | None = "<|pad|>",
    bos: str = "<|start|>",
) -> Path:
    """Write it as a chat model's, and return where."""
    tokens = {"bos_token": bos, "eos_token": "<|end|>"} | ({"pad_token": pad} if pad else {})
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    saved.chat_template = template
    saved.save_pretrained(folder)
    return folder
