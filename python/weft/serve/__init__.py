"""Route table → ASGI app, for every process that answers HTTP."""

from weft.serve.app import Service, build_app
from weft.serve.auth import Gate
from weft.serve.call import Call, Content, Handler

__all__ = ["Call", "Content", "Gate", "Handler", "Service", "build_app"]
