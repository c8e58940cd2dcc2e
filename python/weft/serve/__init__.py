"""Route table → ASGI app, for every process that answers HTTP."""

from weft.serve.app import Service, build_app
from weft.serve.auth import Gate
from weft.serve.call import Call, Content, Handler, Stream

__all__ = ["Call", "Content", "Gate", "Handler", "Service", "Stream", "build_app"]
