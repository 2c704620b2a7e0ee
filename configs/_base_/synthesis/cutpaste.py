# Parts of the image itself, moved: needs no labelled defect. `class_id` is the class they are taught as.
synthesis = dict(
    ratio=dict(real=2, synthetic=1, clean=1),
    location=dict(object='foreground'),
    transforms=[dict(type='CutPaste', kind='union', class_id=1)],
)
