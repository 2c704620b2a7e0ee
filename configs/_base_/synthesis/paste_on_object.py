# As paste_anywhere.py, but on the object only.
_base_ = ['./paste_anywhere.py']
synthesis = dict(location=dict(object='foreground'))
