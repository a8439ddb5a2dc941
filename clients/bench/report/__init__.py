"""Figures for people: tables, curves and a page with both."""
