"""Routed tickets in Avalanche: a strategy, metrics, benchmarks and baselines."""

from rtl_continual.avalanche._benchmark import domain_benchmark
from rtl_continual.avalanche._metrics import (
    BalancedAccuracy,
    Recall,
    RouterAccuracy,
    TicketCount,
    rtl_metrics,
)
from rtl_continual.avalanche._model import RoutedModel
from rtl_continual.avalanche._strategy import RoutedTickets, TicketPlugin

__all__ = [
    "BalancedAccuracy",
    "Recall",
    "RoutedModel",
    "RoutedTickets",
    "RouterAccuracy",
    "TicketCount",
    "TicketPlugin",
    "domain_benchmark",
    "rtl_metrics",
]
