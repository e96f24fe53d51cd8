"""Options of watching for collapse: the ``tickets.collapse`` section."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rtl_continual.errors import unknown_name
from rtl_continual.training._collapse import Direction
from rtl_continual.training._collapse_scores import COLLAPSE_SCORES
from rtl_continual.training._relaxation import RegrowPolicyConfig, RelaxationSection

__all__ = ["CollapseConfig"]


class CollapseConfig(BaseModel):
    """How collapse is seen and what is done about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: str = Field(
        "confidence",
        description="what is watched: agreement, confidence, layer_similarity, lookahead, rank or "
        "similarity",
    )
    direction: Direction = Field(
        "drop", description="which abrupt change of the score counts: drop, rise or either"
    )
    policy: RelaxationSection = Field(
        RegrowPolicyConfig(), description="how the sparsity target is relaxed"
    )
    max_relaxations: int = Field(
        2, ge=0, description="relaxations of one ticket at most; 0 only reports"
    )
    probe_images: int = Field(
        128, ge=8, description="training images, without labels, that every check looks at"
    )
    level: float = Field(
        0.33,
        gt=0,
        le=4,
        description="a check each time the kept weights have shrunk by so many halvings",
    )

    @field_validator("score")
    @classmethod
    def _known_score(cls, score: str) -> str:
        if score not in COLLAPSE_SCORES:
            raise ValueError(unknown_name("collapse score", score, COLLAPSE_SCORES))
        return score

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")
