"""Figures with their uncertainty: intervals, ratings, agreement, comparisons. numpy and scipy; `small` has neither."""
