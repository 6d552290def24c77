"""How far texts are apart by what they mean: their embeddings, and how evenly these fall into clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfreward.pretrained import load

_CLUSTERS = 8
_BATCH = 16


def embedding_metrics(texts: Sequence[str], model_name: str) -> dict[str, float]:
    """Of texts' embeddings: `mean_distance`, the mean cosine distance of two, and `cluster_evenness`, the entropy of
    the sizes of eight clusters (k-means) over its greatest value, 0 to 1. Empty for fewer texts than clusters."""
    if len(texts) < _CLUSTERS:
        return {}
    from scipy.cluster.vq import kmeans2

    vectors_NH = embed(texts, model_name)
    total, count = vectors_NH.sum(0), len(vectors_NH)
    similarity = (float(total @ total) - count) / (count * (count - 1))  # of unit vectors, all pairs but with itself
    _, labels_N = kmeans2(vectors_NH, _CLUSTERS, minit="++", rng=np.random.default_rng(0))
    shares = np.bincount(labels_N, minlength=_CLUSTERS) / count
    entropy = -sum(float(share) * math.log(share) for share in shares if share)
    return {"mean_distance": 1 - similarity, "cluster_evenness": entropy / math.log(_CLUSTERS)}


def embed(texts: Sequence[str], model_name: str) -> np.ndarray:
    """Unit vectors (N, H): the mean of a model's last states over each text's tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = load(AutoTokenizer, model_name)
    model: Any = load(AutoModel, model_name, use_safetensors=True).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    parts: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            inputs = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=512)
            states_BLH = model(**inputs).last_hidden_state.float()
            mask_BL1 = inputs["attention_mask"][:, :, None]
            mean_BH = (states_BLH * mask_BL1).sum(1) / mask_BL1.sum(1)
            parts.append(torch.nn.functional.normalize(mean_BH, dim=-1).numpy())
    return np.concatenate(parts)
