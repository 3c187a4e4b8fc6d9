"""raygen: find the images where a classifier follows a bias, repaint them on Ray, retrain, measure per group.

The main job, read from top to bottom, is `raygen.recipes.run`; the command line is `raygen.cli`. Importing this
package loads nothing else: no torch, no Ray.
"""

__version__ = "0.1.0"
