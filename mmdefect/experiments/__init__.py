"""Batches of trainings by command: plan, states on disk, records, selection, reports.

Nothing here imports torch or an ``mm*`` package; models are trained and tested by the tools of ``tools/``.
"""
