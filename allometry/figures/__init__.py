"""Figures: functions from runs and fits to charts, one file a kind."""
