# No synthetic defects: only the images as they are.
synthesis = None
