"""The tour: one command that trains, shortens, steers and shows a flow."""

from rheos.tour.story import CHAPTERS, Tour, TourOptions, TourResult, run_tour

__all__ = ["CHAPTERS", "Tour", "TourOptions", "TourResult", "run_tour"]
