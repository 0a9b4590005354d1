"""The options of training on after a technique."""

from __future__ import annotations

from pydantic import Field

from edgebench.techniques.base import Options


class Finetune(Options):
    """Train on after pruning."""

    epochs: int = Field(5, ge=1, le=10000)
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="none: a third of the rate base was trained with"
    )
