"""Tickets: masks and scores, schedules, similarity, and the bank that holds them."""

from rtl_continual.tickets._bank import Prediction, TicketBank
from rtl_continual.tickets._lazy import LazyTickets
from rtl_continual.tickets._mask import Mask, MaskLayout, norm_state_names, union
from rtl_continual.tickets._schedule import cubic_sparsity
from rtl_continual.tickets._scores import MaskScores, magnitude_scores, top_scores
from rtl_continual.tickets._similarity import (
    chance_jaccard,
    corrected_jaccard,
    layer_similarity,
    similarity_matrix,
    similarity_scores,
)
from rtl_continual.tickets._ticket import Ticket, TicketInfo

__all__ = [
    "LazyTickets",
    "Mask",
    "MaskLayout",
    "MaskScores",
    "Prediction",
    "Ticket",
    "TicketBank",
    "TicketInfo",
    "chance_jaccard",
    "corrected_jaccard",
    "cubic_sparsity",
    "layer_similarity",
    "magnitude_scores",
    "norm_state_names",
    "similarity_matrix",
    "similarity_scores",
    "top_scores",
    "union",
]
