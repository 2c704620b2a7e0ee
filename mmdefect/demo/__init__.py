"""Procedurally rendered inspection images with exact labels, so that everything can be tried without data."""
