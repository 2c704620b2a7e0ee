"""Procedurally rendered inspection pictures with exact labels, so that everything can be tried without data."""
