# No synthetic defects: only the pictures as they are.
synthesis = None
