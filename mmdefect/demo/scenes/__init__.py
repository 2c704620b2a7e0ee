"""The things on the inspection table: two textures and one rigid object."""

from mmdefect.demo.scenes.carpet import carpet_scene
from mmdefect.demo.scenes.insert import insert_scene
from mmdefect.demo.scenes.metal import metal_scene

__all__ = ['carpet_scene', 'insert_scene', 'metal_scene']
