# Every defect class appears in at least this share of the images drawn.
class_aware = dict(target_share=0.3)
