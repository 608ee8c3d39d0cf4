"""Strategies of a malicious server, which sends models to read clients' examples off updates."""

from __future__ import annotations

MALICIOUS_STRATEGIES: dict[str, str] = {
    "LOKI": "atoll.strategies.malicious.loki:LOKI",
    "FeatureFishing": "atoll.strategies.malicious.feature_fishing:FeatureFishing",
}
