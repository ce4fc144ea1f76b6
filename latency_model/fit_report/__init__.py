"""The report of a fit: how far predictions of rows that the model did not see are from their measurements."""

from latency_model.fit_report.facts import FitFacts, NetworkFact, Staircase
from latency_model.fit_report.figures import headline, summary
from latency_model.fit_report.stairs import staircases
from latency_model.fit_report.write import write_report

__all__ = ["FitFacts", "NetworkFact", "Staircase", "headline", "staircases", "summary", "write_report"]
