"""Figures with their uncertainty: intervals, ratings, agreement, comparisons. Uses numpy and scipy only."""
