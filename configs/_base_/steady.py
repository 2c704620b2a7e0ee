# Training images in the scale and the light of the camera: no photometric distortion, almost no resizing.
augmentation = dict(scale=(0.9, 1.1), light=0)
