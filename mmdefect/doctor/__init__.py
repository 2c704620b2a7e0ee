"""``python -m mmdefect doctor``: what is installed, what works, what does not and the command that fixes it.

Written for the machine on which things are broken: it needs the standard library only and imports nothing of what it
examines; every import is tried in a subprocess.
"""

from .examine import examine, render

__all__ = ['examine', 'render']
