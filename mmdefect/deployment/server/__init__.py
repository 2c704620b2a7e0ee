"""Prediction over HTTP: one model, uploads of images, answers in JSON; FastAPI and uvicorn (extra ``serve``).

No module here imports a web package before a server is made, so that the layer can be imported without the extra.
"""
