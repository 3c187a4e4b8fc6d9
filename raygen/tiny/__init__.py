"""Training of the tiny inpainting model that the package ships; `python -m raygen.tiny.train` does all of it."""
