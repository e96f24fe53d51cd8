"""Options of ticket training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rtl_continual.tickets import CubicScheduleConfig, ScheduleSection
from rtl_continual.training._collapse_config import CollapseConfig

__all__ = ["TicketConfig"]


class TicketConfig(BaseModel):
    """How a ticket is learned; the ``tickets`` section of a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float = Field(0.9, ge=0, lt=1, description="fraction of the body's weights to drop")
    kind: Literal["weights", "units"] = Field(
        "weights",
        description="what a mask drops. weights: single ones; units: whole channels, hidden "
        "features and attention heads, so that bank.extract() gives a smaller and faster network",
    )
    epochs: int = Field(15, ge=1, description="passes over the ticket's data")
    batch_size: int = Field(32, ge=2, description="images per step")
    score_lr: float = Field(0.03, gt=0, description="Adam's rate for the mask scores")
    norm_lr: float = Field(0.01, gt=0, description="Adam's rate for the norm affine parameters")
    head_lr: float = Field(0.01, gt=0, description="Adam's rate for the head")
    norm_statistics: Literal["own", "fixed"] = Field(
        "own",
        description="what batch norms divide by. own: each batch's statistics, and after training "
        "their running mean; fixed: set once before training, which small batches of small images "
        "cannot spoil",
    )
    norm_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fixed norm statistics lie so far on the way from those that the ticket starts "
        "from (the backbone's, or a known ticket's) to those of its data",
    )
    ramp: float = Field(
        0.6, gt=0, le=1, description="fraction of steps during which sparsity rises"
    )
    schedule: ScheduleSection = Field(
        CubicScheduleConfig(), description="how sparsity rises on the way to its target"
    )
    binarise_every: int = Field(5, ge=1, description="steps between two recomputations of the mask")
    layer_floor: float = Field(
        0.1, ge=0, lt=1, description="each layer keeps at least this share of the mean density"
    )
    start: Literal["cold", "nearest", "core"] = Field(
        "nearest",
        description="cold: magnitude scores, fresh head; nearest: mask, norm and head of the "
        "ticket that fits the new data best; core: weights that many tickets share, and the "
        "nearest's norm and head",
    )
    start_strength: float = Field(
        0.5, ge=0, le=1, description="weight of known masks against magnitude in the initial scores"
    )
    start_gap: float = Field(
        0.3, ge=0, le=1, description="a warm ticket's sparsity starts this far below its target"
    )
    start_trial: float = Field(
        0.1,
        ge=0,
        le=1,
        description="a warm start must win a trial on held-out data, of so large a share of the "
        "epochs; no trial below one epoch",
    )
    head_start: Literal["given", "probe"] = Field(
        "given",
        description="given: a fresh head, or with a warm start the known ticket's; probe: solved "
        "on the new data's features before the mask moves",
    )
    head_finish: Literal["trained", "probe"] = Field(
        "trained",
        description="trained: the head as the steps left it; probe: solved on the features of the "
        "final mask",
    )
    head_decay: float = Field(
        0.01,
        ge=0,
        description="half of it times the squared (standardised) weights of a solved head is "
        "penalised",
    )
    head_shrinkage: float = Field(
        1.0,
        gt=0,
        le=1,
        description="below 1 a solved head reads features whitened by their covariance within "
        "classes, drawn towards the identity by this share; better where data are few (begin with "
        "ten times the head_decay); 1 is off",
    )
    features: Literal["own", "merged"] = Field(
        "own",
        description="what the finished head reads. own: the ticket's features; merged: the "
        "unmasked body's beside them, better where data are few, for one more pass of the body. "
        "Needs head_finish: probe",
    )
    class_balance: float = Field(
        0.0,
        ge=0,
        le=4,
        description="weight of the adjustment for rare classes: 0 is off, 1 makes all classes "
        "count the same",
    )
    collapse: CollapseConfig | None = Field(
        None, description="watch for collapse while pruning, and relax the target; null: do not"
    )
    sparsity_weight: float = Field(
        3.0,
        ge=0,
        description="weight of the sparsity regulariser (mean of the scores' sigmoids): scores "
        "that the data do not hold up sink, so that tickets share more of their weights; 0 is off",
    )
    gate_weight: float = Field(1.0, ge=0, description="weight of the gate's loss in joint training")
    mixture_components: int = Field(4, ge=1, description="Gaussians that summarise router features")
    shift: int = Field(
        1,
        ge=0,
        description="training moves each trunk activation map by up to so many of its pixels; "
        "0 is off, and token sequences are never moved",
    )
    flip: bool = Field(
        False, description="training mirrors half of the trunk activation maps, left to right"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the body's arithmetic in training. bfloat16: autocast; faster where the "
        "hardware has it. Scores, norms, head and the finished ticket stay float32",
    )
    compile: bool = Field(
        False,
        description="run the body through torch.compile in training: a minute or more at the "
        "start for steps that are some percent faster; needs a C++ compiler",
    )
    cache_bytes: int = Field(
        2 * 2**30, ge=0, description="keep the data's trunk activations in memory up to this size"
    )

    @model_validator(mode="after")
    def _merged_heads_are_solved(self) -> Self:
        if self.features == "merged" and self.head_finish != "probe":
            raise ValueError("features: merged needs head_finish: probe")
        return self
