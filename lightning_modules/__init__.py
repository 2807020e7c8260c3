"""Systems built from attention blocks, their networks, and the command line.

The public names are listed in ``__init__.pyi`` and imported when they are first used, so that the command line starts
in a fraction of the time that PyTorch, Lightning and timm need to be imported.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
