"""Measure accuracy, agreement and speed of what edgead trains and exports."""
