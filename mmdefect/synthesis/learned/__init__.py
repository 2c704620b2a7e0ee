"""Pasting whose settings are learned: the policy, its maps of places, and the weighted samples that it makes."""
